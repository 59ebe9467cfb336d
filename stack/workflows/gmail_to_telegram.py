"""New mail of a Gmail mailbox, to each of several people in Telegram, when and how each of them wants it.

Who may is said by the operator, as user names of Telegram. Everything else people say to the bot: /setup binds the name
to the first account that comes with it, and keeps its chat in a database of the workflow's own. Nothing is lost by a
failure: what was not delivered is found again, and what was is written down.
"""

from stack.automation.template import (
    GMAIL_PARAMETERS,
    Credential,
    FromConfig,
    Kind,
    Link,
    Node,
    Parameter,
    RolePassword,
    RoleUser,
    Slot,
    WorkflowTemplate,
    answer,
    chain,
    gathered,
    gmail_account,
    is_true,
    program,
    query,
    request,
)
from stack.model import FromSettings, Ref

DATABASE = "gmail-to-telegram"
KEPT = "Database of gmail-to-telegram"
BOT = "Telegram bot"

# Two runs that make the same table at the same time fail, IF NOT EXISTS or not: one after the other, then.
TABLES = """
SELECT pg_advisory_xact_lock(1);
CREATE TABLE IF NOT EXISTS people (
  username text PRIMARY KEY, telegram_user bigint NOT NULL, chat bigint NOT NULL,
  every_minutes int, at_times text, search text NOT NULL DEFAULT '', active boolean NOT NULL DEFAULT true,
  since timestamptz NOT NULL DEFAULT now(), next_at timestamptz NOT NULL DEFAULT now(),
  last_ok timestamptz, failures int NOT NULL DEFAULT 0, last_error text
);
CREATE TABLE IF NOT EXISTS delivered (
  username text NOT NULL, id text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (username, id)
);
CREATE TABLE IF NOT EXISTS notices (kind text PRIMARY KEY, at timestamptz NOT NULL);
"""

# Whoever is due is claimed in one statement, so that two runs never have the same person. Those who left the operator's
# list get nothing more. A day back: what could not be delivered is found again, `delivered` knows the rest.
DUE = """
UPDATE people p SET next_at = CASE
    WHEN p.at_times IS NULL THEN now() + make_interval(mins => p.every_minutes)
    ELSE (SELECT min(t) FROM (
      SELECT ((now() AT TIME ZONE $1)::date + d + x::time) AT TIME ZONE $1 AS t
      FROM unnest(string_to_array(p.at_times, ' ')) x, generate_series(0, 1) d) times WHERE t > now())
  END
WHERE p.active AND p.next_at <= now() AND p.username = ANY (regexp_split_to_array(lower($2), '\\s*,\\s*'))
RETURNING p.username, p.search,
  floor(extract(epoch FROM greatest(p.since, coalesce(p.last_ok, p.since) - interval '1 day')))::bigint AS after
"""

# What the API said of each search. 429 and 403 are its limits; it may say how long to stay away.
SORTED_OUT = r"""
const people = $('Due').all().map(({ json }) => json);
const results = [];
const mails = [];
$input.all().forEach(({ json }, index) => {
  const { username } = people[index];
  const status = Number(json.statusCode ?? 0);
  if (json.error || status !== 200) {
    const said = json.body?.error?.message ?? json.error?.message ?? json.error ?? '';
    const reason = `${status || 'no answer'} ${String(said)}`.trim().slice(0, 200);
    results.push({ username, ok: false, retry_s: Math.min(Number(json.headers?.['retry-after']) || 0, 86400), reason });
    return;
  }
  const found = json.body?.messages ?? [];
  results.push({ username, ok: true, retry_s: 0, reason: '', more: Boolean(json.body?.nextPageToken) });
  for (const { id } of [...found].reverse()) mails.push({ username, id: String(id) });
});
return [{ json: { results: JSON.stringify(results), mails: JSON.stringify(mails) } }];
"""

# Each failure in a row doubles the time until the next try, up to an hour, and never less than the API asked for.
NOTED = """
WITH results AS (
  SELECT * FROM json_to_recordset($1::json) AS r(username text, ok boolean, retry_s int, reason text, more boolean)
), noted AS (
  UPDATE people p SET
    failures = CASE WHEN r.ok THEN 0 ELSE p.failures + 1 END,
    last_ok = CASE WHEN r.ok THEN now() ELSE p.last_ok END,
    last_error = CASE WHEN r.ok THEN NULL ELSE r.reason END,
    next_at = CASE WHEN r.ok THEN p.next_at
      ELSE now() + make_interval(secs => greatest(r.retry_s, least(60 * 2 ^ least(p.failures, 10), 3600))) END
  FROM results r WHERE r.username = p.username
  RETURNING p.username, p.chat, p.failures, p.last_error, p.next_at, r.more
)
SELECT 'mail' AS kind, p.chat::text, m.username, m.id, NULL AS reason, m.place FROM (
    SELECT username, id, row_number() OVER () AS place
    FROM json_to_recordset($2::json) AS m(username text, id text)) m
  JOIN people p ON p.username = m.username
  WHERE NOT EXISTS (SELECT FROM delivered d WHERE d.username = m.username AND d.id = m.id)
UNION ALL
SELECT 'trouble', chat::text, username, NULL,
    last_error || '; next try at ' || to_char(next_at AT TIME ZONE $3, 'HH24:MI'), 0
  FROM noted WHERE failures = $4::int
UNION ALL
SELECT 'more', chat::text, username, NULL, NULL, 1000000 FROM noted WHERE more
ORDER BY 6
"""

WRITTEN = r"""
const escaped = (text) => String(text ?? '').replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const wanted = $('Noted').all().map(({ json }) => json).filter(({ kind }) => kind === 'mail');
const messages = [];
$input.all().forEach(({ json }, index) => {
  if (json.error || Number(json.statusCode) !== 200) return; // not delivered: found again next time
  const { chat, username, id } = wanted[index];
  const named = (json.body.payload?.headers ?? []).map(({ name, value }) => [name.toLowerCase(), value]);
  const headers = Object.fromEntries(named);
  const from = escaped(headers.from).slice(0, 300).replace(/&\w*$/, '');
  const subject = escaped(headers.subject || '(no subject)').slice(0, 500).replace(/&\w*$/, '');
  const snippet = String(json.body.snippet ?? '');
  const plain = snippet.length <= 1000 && !/[<>]/.test(snippet) ? snippet : '';
  messages.push({ json: { chat, username, id, text: `<b>${subject}</b>\n${from}\n${plain}`, attempt: 0 } });
});
return messages;
"""

NOTICES = r"""
const escaped = (text) => String(text ?? '').replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const told = $input.all().filter(({ json }) => json.kind);
return told.map(({ json: { kind, chat, reason } }) => ({ json: { chat, text: kind === 'more'
  ? 'There is more mail than fits here. See the mailbox.'
  : `Your mail could not be read: ${escaped(reason)}` } }));
"""

BACK_OFF = r"""
const said = String($json.error?.message ?? $json.error ?? '');
const told = /retry after (\d+)/i.exec(said);
const attempt = Number($json.attempt ?? 0) + 1;
const gone = /blocked by the user|chat not found|user is deactivated|bot was kicked/i.test(said);
const { chat, username, id, text } = $json;
const wait_s = told ? Number(told[1]) + 1 : Math.min(2 ** attempt, 60);
return { json: { chat, username, id, text, attempt, said: said.slice(0, 200), gone, wait_s, again: !gone } };
"""

COMMAND = r"""
const { body, ...own } = $input.first().json;
const message = $input.first().json.message;
if (!message || message.chat?.type !== 'private' || typeof message.text !== 'string') return [];
const chat = String(message.chat.id);
const username = String(message.from?.username ?? '').toLowerCase();
const reply = (text) => [{ json: { action: 'reply', chat, username, user: String(message.from?.id), text } }];
const people = String(own.people).toLowerCase().split(',').map((name) => name.trim().replace(/^@/, '')).filter(Boolean);
if (!username || !people.includes(username)) return reply('This bot is private. Its operator can add your user name.');
const usage = 'Say /setup every 30 (minutes), or /setup at 08:00 18:30, and if you want: search label:family. Also /status and /stop.';
const words = message.text.trim().split(/\s+/);
const command = words.shift().toLowerCase().split('@')[0];
const ask = (action, more = {}) =>
  [{ json: { action, chat, username, user: String(message.from.id), every: null, at: null, search: '', text: '', ...more } }];
if (command === '/status' || command === '/stop') return ask(command.slice(1));
if (command !== '/setup') return reply(usage);
const cut = words.findIndex((word) => word.toLowerCase() === 'search');
const search = cut < 0 ? '' : words.splice(cut).slice(1).join(' ');
if (search.length > 200) return reply('That search is too long: 200 characters at most.');
const how = (words.shift() ?? 'every').toLowerCase();
if (how === 'every') {
  const minutes = words.length ? words[0] : '15';
  if (words.length > 1 || !/^\d{1,4}$/.test(minutes) || minutes < 1 || minutes > 1440) return reply(usage);
  return ask('setup', { every: Number(minutes), search });
}
if (how === 'at' && words.length && words.length <= 24 && words.every((word) => /^([01]?\d|2[0-3]):[0-5]\d$/.test(word))) {
  return ask('setup', { at: words.join(' '), search });
}
return reply(usage);
"""

# The name belongs to the account that came with it first: whoever takes a freed user name over gets nothing.
OBEYED = """
WITH asked AS (
  SELECT $1::text AS action, $2::text AS username, $3::bigint AS telegram_user, $4::bigint AS chat,
    $5::int AS every_minutes, $6::text AS at_times, $7::text AS search, $8::text AS reply
), set_up AS (
  INSERT INTO people (username, telegram_user, chat, every_minutes, at_times, search)
  SELECT username, telegram_user, chat, every_minutes, at_times, search FROM asked WHERE action = 'setup'
  ON CONFLICT (username) DO UPDATE SET chat = excluded.chat, every_minutes = excluded.every_minutes,
    at_times = excluded.at_times, search = excluded.search, active = true, next_at = now(), failures = 0
  WHERE people.telegram_user = excluded.telegram_user
  RETURNING username
), stopped AS (
  UPDATE people p SET active = false FROM asked a
  WHERE a.action = 'stop' AND p.username = a.username AND p.telegram_user = a.telegram_user
  RETURNING p.username
)
SELECT a.chat::text AS chat, CASE
  WHEN a.action = 'reply' THEN a.reply
  WHEN a.action = 'setup' AND NOT EXISTS (SELECT FROM set_up) THEN 'This name belongs to another account.'
  WHEN a.action = 'setup' THEN 'Set up: mail ' || coalesce('every ' || a.every_minutes || ' minutes', 'at ' || a.at_times)
    || CASE a.search WHEN '' THEN '' ELSE ', of what you search' END || '.'
  WHEN a.action = 'stop' THEN 'Stopped. /setup begins again.'
  WHEN p.username IS NULL THEN 'You are not set up yet: /setup'
  ELSE CASE WHEN p.active THEN 'Mail ' || coalesce('every ' || p.every_minutes || ' minutes', 'at ' || p.at_times)
      ELSE 'Stopped' END
    || coalesce('; last read ' || to_char(p.last_ok AT TIME ZONE $9, 'DD Mon HH24:MI'), '')
    || coalesce('; trouble: ' || p.last_error, '')
END AS text
FROM asked a LEFT JOIN people p ON p.username = a.username AND p.telegram_user = a.telegram_user
"""

# At most one an hour: what fails every minute would be sixty.
TOLD_ABOUT = """
WITH first AS (
  INSERT INTO notices VALUES ('failed', now())
  ON CONFLICT (kind) DO UPDATE SET at = now() WHERE notices.at < now() - interval '1 hour' RETURNING kind
)
SELECT p.chat::text AS chat FROM people p, first WHERE p.active
"""

HEALTH = """
SELECT count(*) FILTER (WHERE active)::int AS people,
  count(*) FILTER (WHERE active AND failures > 0)::int AS failing,
  count(*) FILTER (WHERE active AND failures = 0 AND next_at < now() - interval '15 minutes')::int AS late,
  max(last_ok) AS last_success FROM people
"""


def telegram(name: str, at: tuple[int, int], text: str, **more: object) -> Node:
    """A message to a chat that came with the item."""
    parameters = {
        "resource": "message",
        "operation": "sendMessage",
        "chatId": "={{ $json.chat }}",
        "text": text,
        "additionalFields": {
            "appendAttribution": False,
            "parse_mode": "HTML",
            "disable_web_page_preview": True,
        },
    }
    return Node(
        name=name,
        type="n8n-nodes-base.telegram",
        version=1.2,
        parameters=parameters,
        credential=BOT,
        at=at,
        **more,  # pyright: ignore[reportArgumentType]
    )


def somebody(name: str, at: tuple[int, int], column: str) -> Node:
    """Goes on for rows alone: of a statement that changes things and found nobody, n8n says {success: true}."""
    asked = is_true(f"={{{{ Boolean($json.{column}) }}}}")
    return Node(name=name, type="n8n-nodes-base.if", version=2.2, parameters=asked, at=at)


TEMPLATE = WorkflowTemplate(
    name="gmail-to-telegram",
    summary="New mail of a Gmail mailbox to several people in Telegram, each on a schedule of their own",
    databases=(DATABASE,),
    keep_successes=False,  # n8n would keep who wrote to whom about what
    parameters=(
        Parameter(
            name="people",
            kind=Kind.NAMES,
            meaning="user names of Telegram who may use the bot, with commas between them",
            default=None,
        ),
        *GMAIL_PARAMETERS,
        Parameter(
            name="telegramUrl",
            kind=Kind.ADDRESS,
            meaning="Telegram's bot API, without a path",
            default="https://api.telegram.org",
        ),
        Parameter(
            name="checkSeconds",
            kind=Kind.NUMBER,
            meaning="how often the workflow looks who is due",
            default=30,
            low=5,
            high=59,
        ),
        Parameter(
            name="mailsAtOnce",
            kind=Kind.NUMBER,
            meaning="how many mails a person gets at most each time",
            default=50,
            low=1,
            high=500,
        ),
        Parameter(
            name="mailsPerSecond",
            kind=Kind.NUMBER,
            meaning="how many mails are read in a second: Gmail allows a person 250 units a second, each takes 5 to 20",
            default=5,
            low=1,
            high=25,
        ),
        Parameter(
            name="attempts",
            kind=Kind.NUMBER,
            meaning="how often a message is tried before it is left to the next time",
            default=5,
            low=1,
            high=20,
        ),
        Parameter(
            name="noticeAfter",
            kind=Kind.NUMBER,
            meaning="after how many failures in a row a person is told",
            default=2,
            low=1,
            high=100,
        ),
        Parameter(
            name="healthPath", kind=Kind.PATH, meaning="health: /webhook/<path>", default="gmail-to-telegram/health"
        ),
        Parameter(
            name="timezone",
            kind=Kind.TEXT,
            meaning="the time zone of `at`; the stack's unless said",
            default=FromSettings(lambda settings: settings.timezone),
        ),
    ),
    credentials=(
        gmail_account(),
        Credential(
            name=BOT,
            type="telegramApi",
            fields={
                "accessToken": FromConfig("telegramBotToken", "the bot's token, of @BotFather in Telegram"),
                "baseUrl": Slot("telegramUrl"),
            },
        ),
        Credential(
            name=KEPT,
            type="postgres",
            fields={
                "host": Ref("postgres", "sql", template="{host}"),
                "port": 5432,
                "database": DATABASE,
                "user": RoleUser(DATABASE),
                "password": RolePassword(DATABASE),
                "ssl": "disable",
                "maxConnections": 5,
            },
        ),
    ),
    nodes=(
        # Mail.
        Node(
            name="Clock",
            type="n8n-nodes-base.scheduleTrigger",
            version=1.2,
            parameters={"rule": {"interval": [{"field": "seconds", "secondsInterval": Slot("checkSeconds")}]}},
            at=(0, 0),
        ),
        query("Tables", (1, 0), TABLES, credential=KEPT, always_output=True, once=True),
        gathered(
            "Who and when",
            (2, 0),
            people=Slot("people"),
            timezone=Slot("timezone"),
            gmail=Slot("gmailUrl"),
            limit=Slot("mailsAtOnce"),
            noticeAfter=Slot("noticeAfter"),
        ),
        query(
            "Due", (3, 0), DUE, "[$json.timezone, $json.people.replace(/@/g, '').trim()]", credential=KEPT, once=True
        ),
        somebody("Somebody is due", (4, 0), "username"),
        request(
            "Searched",
            (5, 0),
            "={{ $('Who and when').first().json.gmail }}/gmail/v1/users/me/messages",
            query_values={
                "q": "={{ (($json.search ? '(' + $json.search + ') ' : 'in:inbox ') + 'after:' + $json.after) }}",
                "maxResults": "={{ $('Who and when').first().json.limit }}",
            },
            credential="Gmail",
            options={"batching": {"batch": {"batchSize": Slot("mailsPerSecond"), "batchInterval": 1000}}},
            carry_on=True,
        ),
        program("Sorted out", (6, 0), SORTED_OUT),
        query(
            "Noted",
            (7, 0),
            NOTED,
            "[$json.results, $json.mails, $('Who and when').first().json.timezone, $('Who and when').first().json.noticeAfter]",
            credential=KEPT,
        ),
        Node(
            name="Mail",
            type="n8n-nodes-base.if",
            version=2.2,
            parameters=is_true("={{ $json.kind === 'mail' }}"),
            at=(8, 0),
        ),
        request(
            "Read",
            (9, -1),
            "={{ $('Who and when').first().json.gmail }}/gmail/v1/users/me/messages/{{ $json.id }}",
            query_values={"format": "metadata"},
            credential="Gmail",
            options={"batching": {"batch": {"batchSize": Slot("mailsPerSecond"), "batchInterval": 1000}}},
            carry_on=True,
        ),
        program("Written", (10, 0), WRITTEN),
        program("Notices", (9, 2), NOTICES),
        telegram("Notify", (10, 2), "={{ $json.text }}", tries=5, wait_ms=5000, carry_on=True),
        Node(
            name="One by one",
            type="n8n-nodes-base.splitInBatches",
            version=3,
            parameters={"batchSize": 1, "options": {}},
            at=(11, 0),
        ),
        telegram("Send", (12, 0), "={{ $json.text }}", on_error=True),
        query(
            "Delivered",
            (13, -1),
            "INSERT INTO delivered (username, id) SELECT $1, $2 WHERE $2 <> '' ON CONFLICT DO NOTHING",
            "[$('One by one').item.json.username, $('One by one').item.json.id]",
            credential=KEPT,
            always_output=True,
        ),
        # Telegram takes one message a second for a chat, thirty a second in all.
        Node(
            name="A breath",
            type="n8n-nodes-base.wait",
            version=1.1,
            parameters={"amount": 1.1, "unit": "seconds"},
            at=(14, 0),
        ),
        program("Back off", (13, 1), BACK_OFF, each=True),
        gathered("How often", (14, 1), attempts=Slot("attempts")),
        Node(
            name="Again",
            type="n8n-nodes-base.if",
            version=2.2,
            parameters=is_true("={{ $json.again && $json.attempt < Number($json.attempts) }}"),
            at=(15, 1),
        ),
        Node(
            name="Stay away",
            type="n8n-nodes-base.wait",
            version=1.1,
            parameters={"amount": "={{ $json.wait_s }}", "unit": "seconds"},
            at=(16, 1),
        ),
        query(
            "Given up",
            (16, 2),
            """UPDATE people SET last_error = $2, failures = failures + 1, active = active AND NOT $3::boolean
WHERE username = $1""",
            "[$json.username, $json.said, $json.gone]",
            credential=KEPT,
            always_output=True,
        ),
        # What people say to the bot.
        Node(
            name="Said to the bot",
            type="n8n-nodes-base.telegramTrigger",
            version=1.2,
            parameters={"updates": ["message"], "additionalFields": {}},
            credential=BOT,
            at=(0, 4),
        ),
        gathered("Who may", (1, 4), people=Slot("people")),
        program("Command", (2, 4), COMMAND),
        query("Tables for commands", (3, 4), TABLES, credential=KEPT, always_output=True, once=True),
        gathered("Zone", (4, 4), timezone=Slot("timezone")),
        query(
            "Obeyed",
            (5, 4),
            OBEYED,
            "["
            + ", ".join(
                f"$('Command').first().json.{name}"
                for name in ("action", "username", "user", "chat", "every", "at", "search", "text")
            )
            + ", $json.timezone]",
            credential=KEPT,
            once=True,
        ),
        telegram(
            "Replied", (6, 4), "={{ $json.text.replace(/&/g, '&amp;').replace(/</g, '&lt;') }}", tries=5, wait_ms=5000
        ),
        # What nobody expected: this workflow's own failures come here.
        Node(name="Failed", type="n8n-nodes-base.errorTrigger", version=1, at=(0, 6)),
        query("Tables for failures", (1, 6), TABLES, credential=KEPT, always_output=True, once=True),
        query("Who is told", (2, 6), TOLD_ABOUT, credential=KEPT, once=True),
        somebody("Somebody is told", (3, 6), "chat"),
        telegram(
            "Told",
            (4, 6),
            "=Mail to Telegram failed at {{ ($('Failed').first().json.execution?.lastNodeExecuted ?? 'its start')"
            ".replace(/[&<>]/g, '') }}. It goes on trying; the operator sees more with ./kit workflow history.",
            tries=5,
            wait_ms=5000,
        ),
        # Health.
        Node(
            name="Healthy?",
            type="n8n-nodes-base.webhook",
            version=2,
            parameters={"httpMethod": "GET", "path": Slot("healthPath"), "responseMode": "responseNode", "options": {}},
            open="numbers alone, about nobody",
            at=(0, 8),
        ),
        query("Tables for health", (1, 8), TABLES, credential=KEPT, always_output=True, once=True),
        query("Numbers", (2, 8), HEALTH, credential=KEPT, once=True),
        answer("Health", (3, 8), "$json", "$json.failing || $json.late ? 503 : 200"),
    ),
    links=(
        *chain("Clock", "Tables", "Who and when", "Due", "Somebody is due", "Searched", "Sorted out", "Noted"),
        *chain("Noted", "Mail", "Read", "Written"),
        Link("Mail", "Notices", 1),
        Link("Notices", "Notify"),
        Link("Written", "One by one"),
        Link("One by one", "Send", 1),
        *chain("Send", "Delivered", "A breath", "One by one"),
        Link("Send", "Back off", 1),
        *chain("Back off", "How often", "Again", "Stay away", "Send"),
        Link("Again", "Given up", 1),
        Link("Given up", "A breath"),
        *chain("Said to the bot", "Who may", "Command", "Tables for commands", "Zone", "Obeyed", "Replied"),
        *chain("Failed", "Tables for failures", "Who is told", "Somebody is told", "Told"),
        *chain("Healthy?", "Tables for health", "Numbers", "Health"),
    ),
)
