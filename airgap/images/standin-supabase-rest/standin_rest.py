#!/usr/bin/python3
"""A stand-in for PostgREST, for machines that cannot have it. It is not PostgREST.

What it shares with it is what decides who sees what: a token is verified, and each request is one transaction of the
real server with the token's role (SET LOCAL ROLE) and its claims in request.jwt.claims. Reading, writing, changing and
removing rows of a table with simple filters; no functions, no views of its own, no embedding, no OpenAPI page.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg2
from psycopg2 import sql

LARGEST = 8 << 20
OPERATORS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "LIKE", "ilike": "ILIKE"}
RESERVED = {"select", "order", "limit", "offset"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def setting(name: str, default: str = "") -> str:
    """A variable, or what is in the file that it names with an @, as PostgREST reads both."""
    value = os.environ.get(name, default)
    if value.startswith("@"):
        with open(value[1:], encoding="utf-8") as file:
            return file.read().rstrip("\n")
    return value


ADMIN_PORT = int(setting("PGRST_ADMIN_SERVER_PORT", "3001"))
ADMIN_HOST = setting("PGRST_ADMIN_SERVER_HOST") or setting("PGRST_SERVER_HOST") or "!4"
SPECIAL = ("*", "*4", "!4", "*6", "!6")  # names for all addresses, none of them one that could be asked


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Config:
    def __init__(self) -> None:
        self.uri = setting("PGRST_DB_URI")
        self.secret = setting("PGRST_JWT_SECRET").encode()
        self.schemas = [name.strip() for name in setting("PGRST_DB_SCHEMAS", "public").split(",")]
        self.path = [name.strip() for name in setting("PGRST_DB_EXTRA_SEARCH_PATH", "public").split(",")]
        self.anon = setting("PGRST_DB_ANON_ROLE")
        self.rows = int(setting("PGRST_DB_MAX_ROWS", "1000"))
        if len(self.secret) < 32:
            sys.exit("the JWT secret must be at least 32 characters long")


def claims_of(config: Config, header: str) -> dict:
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer":
        return {}
    try:
        head, body, signature = token.split(".")
        expected = base64.urlsafe_b64encode(hmac.digest(config.secret, f"{head}.{body}".encode(), "sha256"))
        if not hmac.compare_digest(signature.encode(), expected.rstrip(b"=")):
            raise ValueError
        read = lambda text: json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))  # noqa: E731
        claims = read(body)
        if read(head).get("alg") != "HS256" or not isinstance(claims, dict):
            raise ValueError
    except (ValueError, AttributeError):
        raise Refusal(401, "PGRST301", "No suitable key or wrong key type") from None
    if "exp" in claims and claims["exp"] < time.time() - 30:
        raise Refusal(401, "PGRST303", "JWT expired")
    return claims


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "standin-supabase-rest"
    config: Config

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        role = self.config.anon
        rows: str | None = None
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if length > LARGEST:
                self.close_connection = True
                raise Refusal(413, "PGRST000", "the request is too large")
            body = self.rfile.read(length)
            claims = claims_of(self.config, self.headers.get("Authorization", ""))
            role = claims.get("role", self.config.anon)
            status, rows = self._run(str(role), claims, body)
        except Refusal as refusal:
            status, rows = refusal.status, json.dumps({"code": refusal.code, "message": str(refusal)})
        except psycopg2.Error as error:
            status = self._status(error.pgcode or "", role)
            message = (error.diag.message_primary or "database error") if error.diag else "database error"
            rows = json.dumps({"code": error.pgcode, "message": message, "details": None, "hint": None})
        data = (rows or "").encode()
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Type", "application/json; charset=utf-8")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = _serve

    def _status(self, code: str, role: object) -> int:
        if code == "42501":
            return 401 if role == self.config.anon else 403
        if code in ("42P01", "42883"):
            return 404
        if code in ("23505", "23503"):
            return 409
        if code == "57014":
            return 504
        return 400 if code[:2] in ("22", "23", "42", "P0") else 503 if code[:2] in ("08", "53", "57", "") else 500

    def _run(self, role: str, claims: dict, body: bytes) -> tuple[int, str | None]:
        parts = urlsplit(self.path)
        table = unquote(parts.path.lstrip("/"))
        profile = self.headers.get("Accept-Profile" if self.command in ("GET", "HEAD") else "Content-Profile")
        schema = profile or self.config.schemas[0]
        if schema not in self.config.schemas:
            raise Refusal(406, "PGRST106", "Invalid schema: " + schema)
        if not NAME.fullmatch(table):
            raise Refusal(404, "PGRST205", "the stand-in serves tables alone")
        statement, values, status = self._statement(sql.Identifier(schema, table), parse_qsl(parts.query), body)
        connection = psycopg2.connect(self.config.uri, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                local = {
                    "role": role,
                    "search_path": ", ".join(f'"{name}"' for name in (schema, *self.config.path)),
                    "request.jwt.claims": json.dumps(claims),
                    "request.method": self.command,
                    "request.path": parts.path,
                }
                for name, value in local.items():
                    cursor.execute("SELECT set_config(%s, %s, true)", (name, value))
                cursor.execute(statement, values)
                found = cursor.fetchone()
        finally:
            connection.close()
        whole = self.command in ("GET", "HEAD") or "return=representation" in self.headers.get("Prefer", "")
        if whole:
            return status, found[0] if found else "[]"
        return (status if self.command == "POST" else 204), None

    def _statement(self, table: sql.Identifier, query: list, body: bytes) -> tuple[sql.Composable, list, int]:
        where, values = self._where(query)
        asked = dict(query)
        columns = sql.SQL("*")
        if asked.get("select", "*") != "*":
            columns = sql.SQL(", ").join(sql.Identifier(name) for name in asked["select"].split(","))
        answer = "SELECT coalesce(json_agg(found), '[]')::text FROM found"
        match self.command:
            case "GET" | "HEAD":
                limit = min(int(asked.get("limit", self.config.rows)), self.config.rows)
                order = sql.SQL("")
                if "order" in asked:
                    name, _, way = asked["order"].partition(".")
                    direction = sql.SQL("DESC" if way.startswith("desc") else "ASC")
                    order = sql.SQL(" ORDER BY {} {}").format(sql.Identifier(name), direction)
                text = sql.SQL("WITH found AS (SELECT {} FROM {}{}{} LIMIT %s OFFSET %s) " + answer)
                return text.format(columns, table, where, order), [*values, limit, int(asked.get("offset", 0))], 200
            case "POST":
                rows = self._rows(body)
                if not rows:
                    return sql.SQL("SELECT '[]'"), [], 201
                names = sql.SQL(", ").join(sql.Identifier(name) for name in rows[0])
                text = sql.SQL(
                    "WITH found AS (INSERT INTO {} ({}) SELECT {} FROM json_populate_recordset(null::{}, %s) RETURNING {}) "
                    + answer
                )
                return text.format(table, names, names, table, columns), [json.dumps(rows)], 201
            case "PATCH":
                change = self._rows(body)[0]
                sets = sql.SQL(", ").join(
                    sql.SQL("{} = (SELECT {} FROM json_populate_record(null::{}, %s))").format(
                        sql.Identifier(name), sql.Identifier(name), table
                    )
                    for name in change
                )
                text = sql.SQL("WITH found AS (UPDATE {} SET {}{} RETURNING {}) " + answer)
                return text.format(table, sets, where, columns), [json.dumps(change)] * len(change) + values, 200
            case _:
                text = sql.SQL("WITH found AS (DELETE FROM {}{} RETURNING {}) " + answer)
                return text.format(table, where, columns), values, 200

    @staticmethod
    def _rows(body: bytes) -> list[dict]:
        try:
            read = json.loads(body)
        except ValueError:
            raise Refusal(400, "PGRST102", "Empty or invalid json") from None
        rows = read if isinstance(read, list) else [read]
        if not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
            raise Refusal(400, "PGRST102", "All object keys must match")
        return rows

    @staticmethod
    def _where(query: list) -> tuple[sql.Composable, list]:
        terms: list[sql.Composable] = []
        values: list[object] = []
        for name, condition in query:
            if name in RESERVED:
                continue
            operator, _, value = condition.partition(".")
            column = sql.Identifier(name)
            if operator in OPERATORS:
                terms.append(sql.SQL("{} " + OPERATORS[operator] + " %s").format(column))
                values.append(value)
            elif condition == "is.null":
                terms.append(sql.SQL("{} IS NULL").format(column))
            elif operator == "in" and value[:1] + value[-1:] == "()":
                terms.append(sql.SQL("{}::text = ANY(%s)").format(column))
                values.append(value[1:-1].split(","))
            else:
                raise Refusal(400, "PGRST100", f"the stand-in does not know the filter {operator}")
        return (sql.SQL(" WHERE ") + sql.SQL(" AND ").join(terms) if terms else sql.SQL("")), values


class Admin(BaseHTTPRequestHandler):
    config: Config

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        status = 404
        if self.path == "/live":
            status = 200
        elif self.path == "/ready":
            try:
                psycopg2.connect(self.config.uri, connect_timeout=3).close()
                status = 200
            except psycopg2.Error:
                status = 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def ready() -> None:
    """What `postgrest --ready` does: asks the running server, and refuses where that has no address to be asked at."""
    if ADMIN_HOST in SPECIAL:
        sys.exit(
            f'ERROR: The `--ready` flag cannot be used when server-host is configured as "{ADMIN_HOST}". '
            'Please update your server-host config to "localhost".'
        )
    try:
        with urllib.request.urlopen(f"http://{ADMIN_HOST}:{ADMIN_PORT}/ready", timeout=4) as answer:
            sys.exit(0 if answer.status == 200 else 1)
    except (urllib.error.URLError, OSError):
        sys.exit(1)


def main() -> None:
    if sys.argv[1:] == ["--ready"]:
        ready()
    Handler.config = Admin.config = Config()
    admin = ThreadingHTTPServer(("0.0.0.0" if ADMIN_HOST in SPECIAL else ADMIN_HOST, ADMIN_PORT), Admin)
    server = ThreadingHTTPServer(("0.0.0.0", int(setting("PGRST_SERVER_PORT", "3000"))), Handler)
    admin.daemon_threads = server.daemon_threads = True
    threading.Thread(target=admin.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("standin-supabase-rest: a stand-in, not PostgREST", flush=True)
    server.serve_forever()


main()
