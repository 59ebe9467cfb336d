#!/usr/bin/python3
"""A stand-in for Supabase's auth service, for machines that cannot have it. It is not supabase/auth.

It speaks what the stack's proof and its gateway use, and nothing else: health, settings, key set, password login,
the user of a token, administration of users, the refusal of sign-ups, and where a login by the identity provider
would lead. No refresh tokens, no mails, no second factor, and the callback of the identity provider is not served.
Its users are in auth.standin_users, so that no real auth service ever takes them for its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import psycopg2

ENV = os.environ
SECRET = ENV["GOTRUE_JWT_SECRET"].encode()
LIFE_S = int(ENV.get("GOTRUE_JWT_EXP", "3600"))
ADMINS = ENV.get("GOTRUE_JWT_ADMIN_ROLES", "service_role").split(",")
LARGEST = 1 << 20

MIGRATION = """
CREATE TABLE IF NOT EXISTS auth.standin_users (
    id uuid PRIMARY KEY, email text NOT NULL UNIQUE, salt bytea NOT NULL, hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE auth.standin_users ENABLE ROW LEVEL SECURITY;
CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
CREATE OR REPLACE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
"""


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def database():
    return psycopg2.connect(ENV["GOTRUE_DB_DATABASE_URL"], connect_timeout=5)


def ask(statement: str, *values: object) -> list[tuple]:
    connection = database()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(claims: dict) -> str:
    head = encoded(b'{"alg":"HS256","typ":"JWT"}')
    body = encoded(json.dumps(claims).encode())
    return f"{head}.{body}.{encoded(hmac.digest(SECRET, f'{head}.{body}'.encode(), 'sha256'))}"


def verified(token: str) -> dict:
    try:
        head, body, signature = token.split(".")
        expected = encoded(hmac.digest(SECRET, f"{head}.{body}".encode(), "sha256"))
        pad = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))  # noqa: E731
        if not hmac.compare_digest(signature, expected) or json.loads(pad(head)).get("alg") != "HS256":
            raise ValueError
        claims = json.loads(pad(body))
        if "exp" in claims and claims["exp"] < time.time():
            raise ValueError
        return claims
    except (ValueError, KeyError, TypeError):
        raise Refusal(403, "bad_jwt", "invalid JWT") from None


def hashed(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << 14, r=8, p=1)


def user_of(row: tuple) -> dict:
    identity, email, made = row
    return {
        "id": str(identity),
        "aud": ENV.get("GOTRUE_JWT_AUD", "authenticated"),
        "role": "authenticated",
        "email": email,
        "email_confirmed_at": made.isoformat(),
        "created_at": made.isoformat(),
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {},
    }


COLUMNS = "SELECT id, email, created_at FROM auth.standin_users"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "standin-supabase-auth"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = b""
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if length > LARGEST:
                self.close_connection = True
                raise Refusal(413, "too_large", "the request is too large")
            body = self.rfile.read(length)
            status, answer, headers = self._route(parts.path, parse_qs(parts.query), body)
        except Refusal as refusal:
            code = {"code": refusal.status, "error_code": refusal.code, "msg": str(refusal)}
            status, answer, headers = refusal.status, code, {}
        except psycopg2.Error as error:
            print(f"database: {error.pgcode} {type(error).__name__}", flush=True)
            status, answer, headers = 500, {"code": 500, "error_code": "unexpected_failure", "msg": "database"}, {}
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

    def _route(self, path: str, query: dict, body: bytes) -> tuple[int, object, dict]:
        method = "GET" if self.command == "HEAD" else self.command
        match (method, path):
            case ("GET", "/health"):
                return 200, {"name": self.server_version, "version": "1", "description": "a stand-in"}, {}
            case ("GET", "/settings"):
                on = {name: ENV.get(f"GOTRUE_EXTERNAL_{name.upper()}_ENABLED") == "true" for name in ("email", "keycloak")}
                closed = ENV.get("GOTRUE_DISABLE_SIGNUP") == "true"
                return 200, {"external": on, "disable_signup": closed, "mailer_autoconfirm": True}, {}
            case ("GET", "/.well-known/jwks.json"):
                return 200, {"keys": []}, {}
            case ("GET", "/authorize"):
                return self._authorize(query)
            case ("POST", "/signup"):
                raise Refusal(422, "signup_disabled", "Signups not allowed for this instance")
            case ("POST", "/token") if query.get("grant_type") == ["password"]:
                return self._login(body)
            case ("GET", "/user"):
                claims = self._claims()
                rows = ask(f"{COLUMNS} WHERE id = %s", claims["sub"]) if claims.get("sub") else []
                if not rows:
                    raise Refusal(403, "bad_jwt", "the token is nobody's")
                return 200, user_of(rows[0]), {}
        if path == "/admin/users" or path.startswith("/admin/users/"):
            return self._admin(method, path.removeprefix("/admin/users").lstrip("/"), query, body)
        raise Refusal(404, "not_found", "the stand-in does not serve this")

    def _claims(self) -> dict:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Refusal(401, "no_authorization", "This endpoint requires a valid Bearer token")
        return verified(token)

    def _authorize(self, query: dict) -> tuple[int, object, dict]:
        if query.get("provider") != ["keycloak"]:
            raise Refusal(400, "validation_failed", "Unsupported provider")
        asked = {
            "client_id": ENV["GOTRUE_EXTERNAL_KEYCLOAK_CLIENT_ID"],
            "redirect_uri": ENV["GOTRUE_EXTERNAL_KEYCLOAK_REDIRECT_URI"],
            "response_type": "code",
            "scope": "profile email",
            "state": secrets.token_urlsafe(16),
        }
        target = f"{ENV['GOTRUE_EXTERNAL_KEYCLOAK_URL']}/protocol/openid-connect/auth?{urlencode(asked)}"
        return 302, None, {"Location": target}

    def _login(self, body: bytes) -> tuple[int, object, dict]:
        email, password = _pair(body)
        rows = ask("SELECT id, email, created_at, salt, hash FROM auth.standin_users WHERE email = %s", email.lower())
        salt, known = (bytes(rows[0][3]), bytes(rows[0][4])) if rows else (b"nobody", b"")
        if not hmac.compare_digest(hashed(password, salt), known):
            raise Refusal(400, "invalid_credentials", "Invalid login credentials")
        user, now = user_of(rows[0][:3]), int(time.time())
        claims = {
            "iss": ENV.get("API_EXTERNAL_URL", ""),
            "sub": user["id"],
            "aud": user["aud"],
            "role": user["role"],
            "email": user["email"],
            "iat": now,
            "exp": now + LIFE_S,
        }
        answer = {"access_token": sign(claims), "token_type": "bearer", "expires_in": LIFE_S, "user": user}
        return 200, answer, {}

    def _admin(self, method: str, identity: str, query: dict, body: bytes) -> tuple[int, object, dict]:
        if self._claims().get("role") not in ADMINS:
            raise Refusal(403, "not_admin", "User not allowed")
        if identity:
            try:
                key = str(uuid.UUID(identity))
            except ValueError:
                raise Refusal(404, "validation_failed", "user_id must be an UUID") from None
            if method == "DELETE":
                if not ask("DELETE FROM auth.standin_users WHERE id = %s RETURNING id", key):
                    raise Refusal(404, "user_not_found", "User not found")
                return 200, {}, {}
            rows = ask(f"{COLUMNS} WHERE id = %s", key)
            if method != "GET" or not rows:
                raise Refusal(404, "user_not_found", "User not found")
            return 200, user_of(rows[0]), {}
        if method == "POST":
            email, password = _pair(body)
            if "@" not in email:
                raise Refusal(400, "validation_failed", "Unable to validate email address: invalid format")
            salt = secrets.token_bytes(16)
            rows = ask(
                "INSERT INTO auth.standin_users (id, email, salt, hash) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING RETURNING id, email, created_at",
                str(uuid.uuid4()), email.lower(), salt, hashed(password, salt),
            )
            if not rows:
                raise Refusal(422, "email_exists", "A user with this email address has already been registered")
            return 200, user_of(rows[0]), {}
        if method == "GET":
            size = min(int(query.get("per_page", ["50"])[0]), 1000)
            page = int(query.get("page", ["1"])[0])
            rows = ask(f"{COLUMNS} ORDER BY created_at, id LIMIT %s OFFSET %s", size, (page - 1) * size)
            return 200, {"users": [user_of(row) for row in rows], "aud": "authenticated"}, {}
        raise Refusal(405, "bad_method", "Method not allowed")


def _pair(body: bytes) -> tuple[str, str]:
    try:
        asked = json.loads(body)
        email, password = asked["email"], asked["password"]
    except (ValueError, KeyError, TypeError):
        raise Refusal(400, "bad_json", "Could not read the request body") from None
    if not isinstance(email, str) or not isinstance(password, str):
        raise Refusal(400, "bad_json", "Could not read the request body")
    return email, password


def main() -> None:
    for attempt in range(30):
        try:
            ask(MIGRATION)
            break
        except psycopg2.OperationalError as error:
            if attempt == 29:
                sys.exit(f"the database does not answer: {type(error).__name__}")
            time.sleep(1)
    server = ThreadingHTTPServer((ENV.get("GOTRUE_API_HOST", "0.0.0.0"), int(ENV.get("GOTRUE_API_PORT", "8081"))), Handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("standin-supabase-auth: a stand-in, not Supabase's auth service", flush=True)
    server.serve_forever()


main()
