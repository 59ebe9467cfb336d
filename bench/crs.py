"""python3 -m bench.crs TESTS: the rule set's own regression tests against the firewall's image.

TESTS is the folder `tests` of the Go module github.com/corazawaf/coraza-coreruleset/v4 (go mod download -json), whose
4,674 tests say for a request which rules must see something in it, and which must not. They are sent to nginx with
ModSecurity as the stack has it, at paranoia level 4 and without blocking, as upstream does; what matched is read from
the audit log. Rules for answers (95x, 980) are not loaded by the stack: their tests are counted apart.

No tool of upstream is used: what a request looks like on the wire follows go-ftw's documentation as far as these tests
need it. Upstream's list of tests that nginx cannot pass is not in the module: what fails is printed.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import socket
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote_plus

import yaml

from airgap import images
from stack.derive.waf import RULES

MARK = "X-Kit-Test"
PORT = 8080
ANSWERS = ("95", "980")  # families of rules that read answers
# As upstream sets its engine up for these tests: tests/regression/README.md of coreruleset/coreruleset.
SETUP = (
    "tx.blocking_paranoia_level=4",
    "tx.crs_setup_version=4250",
    "tx.crs_validate_utf8_encoding=1",
    "tx.arg_name_length=100",
    "tx.arg_length=400",
    "tx.total_arg_length=64000",
    "tx.max_num_args=255",
    "tx.max_file_size=64100",
    "tx.combined_file_size=65535",
)
NGINX = f"""
load_module /etc/nginx/modules/ngx_http_modsecurity_module.so;
daemon off;
worker_processes 2;
pid /tmp/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    client_max_body_size 0; client_body_buffer_size 1m; large_client_header_buffers 8 64k;
    merge_slashes off; underscores_in_headers on; ignore_invalid_headers off;
    modsecurity on;
    modsecurity_rules_file /config/rules.conf;
    server {{ listen {PORT}; location / {{ proxy_pass http://127.0.0.1:9000; }} }}
    server {{ listen 127.0.0.1:9000; modsecurity off; location / {{ return 200 "ok"; }} }}
}}
"""


def modsecurity() -> str:
    """The rules' setup: the stack's, but for what upstream's tests count on."""
    sets = ",".join(f"setvar:'{each}'" for each in SETUP)
    return f"""
SecRuleEngine DetectionOnly
SecRequestBodyAccess On
SecRequestBodyLimit 13107200
SecRequestBodyJsonDepthLimit 512
SecArgumentsLimit 1000
SecPcreMatchLimit 100000
SecPcreMatchLimitRecursion 100000
SecResponseBodyAccess Off
SecUnicodeMapFile /etc/modsecurity.d/unicode.mapping 20127
SecTmpDir /tmp/
SecDataDir /tmp/
SecAuditEngine RelevantOnly
SecAuditLogRelevantStatus "^$"
SecAuditLogParts ABHZ
SecAuditLogFormat JSON
SecAuditLogType Serial
SecAuditLog /tmp/audit/log
SecDefaultAction "phase:1,log,auditlog,pass"
SecDefaultAction "phase:2,log,auditlog,pass"
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\\+|/)|text/)xml" \\
    "id:1,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/(?:[a-z0-9.-]+\\+)?json" \\
    "id:2,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecAction "id:11,phase:1,t:none,pass,nolog,{sets}"
Include {RULES}/REQUEST-*.conf
"""


@dataclass
class Case:
    """One test: its requests, what is expected of each, and what came of it."""

    name: str
    stages: list[dict[str, Any]]
    marks: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def cases(folder: Path) -> Iterator[Case]:
    """Every test of the folder, by name."""
    for path in sorted(folder.glob("*/*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for number, test in enumerate((document or {}).get("tests", ()), 1):
            name = f"{document.get('rule_id', path.stem)}-{test.get('test_id', number)}"
            yield Case(name, [stage.get("stage", stage) for stage in test["stages"]])


def wire(given: dict[str, Any], mark: str) -> bytes:
    """The bytes of a request, with the mark among its headers."""
    if "encoded_request" in given:
        raw = base64.b64decode(given["encoded_request"])
        first, end, rest = raw.partition(b"\r\n")
        return first + end + f"{MARK}: {mark}\r\n".encode() + rest
    headers = {str(name): str(value) for name, value in (given.get("headers") or {}).items()}
    lower = {name.lower() for name in headers}
    data = str(given.get("data") or "")
    body = data.encode()
    if given.get("autocomplete_headers", True):
        if body and "content-type" not in lower:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        if body and kind == "application/x-www-form-urlencoded" and unquote_plus(data) == data:
            body = "&".join("=".join(map(quote_plus, pair.split("=", 1))) for pair in data.split("&")).encode()
        if "content-length" not in lower and "transfer-encoding" not in lower and given.get("data") is not None:
            headers["Content-Length"] = str(len(body))
        if "connection" not in lower:
            headers["Connection"] = "close"
    head = f"{given.get('method', 'GET')} {given.get('uri', '/')} {given.get('version', 'HTTP/1.1')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in {MARK: mark, **headers}.items())
    return head.encode("utf-8", "surrogateescape") + b"\r\n" + body


def send(address: tuple[str, int], raw: bytes) -> int:
    """The status of the answer; 0 for none."""
    try:
        with socket.create_connection(address, 10) as connection:
            connection.settimeout(10)
            connection.sendall(raw)
            answer = connection.recv(256)
    except OSError:
        return 0
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3})", answer)
    return int(found[1]) if found else 0


def holds(stage: dict[str, Any], status: int, seen: set[int], text: str) -> bool:
    """Whether the engine did what a stage expects."""
    output = stage.get("output") or {}
    log = output.get("log") or {}
    if output.get("expect_error"):
        return status == 0
    wanted = set(log.get("expect_ids") or ())
    unwanted = set(log.get("no_expect_ids") or ())
    if not wanted <= seen or unwanted & seen:
        return False
    if "match_regex" in log and not re.search(log["match_regex"], text):
        return False
    if "no_match_regex" in log and re.search(log["no_match_regex"], text):
        return False
    return "status" not in output or bool(log) or output["status"] == status


def records(text: str) -> dict[str, dict[str, Any]]:
    """The audit log, by mark."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)["transaction"]
        except ValueError:
            continue
        headers = record["request"].get("headers", {})
        mark = next((value for name, value in headers.items() if name.lower() == MARK.lower()), "")
        found[mark] = record
    return found


def run(folder: Path, image: str) -> tuple[Counter[str], list[str]]:
    """Counts of passed and failed by family, and the names of those that failed."""
    every = list(cases(folder))
    with tempfile.TemporaryDirectory() as config:
        place = Path(config)
        place.chmod(0o755)
        (place / "nginx.conf").write_text(NGINX)
        (place / "rules.conf").write_text(modsecurity())
        name = f"bench-crs-{uuid.uuid4().hex[:8]}"
        argv = [
            "run",
            "-d",
            "--rm",
            "--name",
            name,
            "--user",
            "101:101",
            "--cap-drop",
            "ALL",
            "--tmpfs",
            "/tmp:size=64m",  # noqa: S108
        ]
        argv += ["--tmpfs", "/tmp/audit:size=512m,uid=101,gid=101", "-v", f"{config}:/config:ro"]  # noqa: S108
        docker(*argv, "--entrypoint", "nginx", image, "-c", "/config/nginx.conf")
        try:
            host = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name).strip()
            address = (host, PORT)
            while send(address, b"GET / HTTP/1.0\r\n\r\n") == 0:
                time.sleep(0.3)

            def ask(case: Case) -> None:
                for number, stage in enumerate(case.stages):
                    case.marks.append(f"{case.name}-{number}")
                    case.statuses.append(send(address, wire(stage["input"], case.marks[-1])))

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ask, every))
            seen = records(docker("exec", name, "cat", "/tmp/audit/log"))  # noqa: S108
        finally:
            docker("rm", "-f", name)
    counts: Counter[str] = Counter()
    failed: list[str] = []
    for case in every:
        good = True
        for stage, mark, status in zip(case.stages, case.marks, case.statuses, strict=True):
            messages = seen.get(mark, {}).get("messages", [])
            ids = {int(each["details"]["ruleId"]) for each in messages}
            text = "\n".join(f'[id "{m["details"]["ruleId"]}"] {m["message"]} {m["details"]["data"]}' for m in messages)
            good = good and bool(holds(stage, status, ids, text))
        family = "answers" if case.name.startswith(ANSWERS) else case.name[:3]
        counts[f"{family} {'passed' if good else 'failed'}"] += 1
        if not good and family != "answers":
            failed.append(f"{case.name} ({', '.join(map(str, case.statuses))})")
    return counts, failed


def docker(*argv: str) -> str:
    return subprocess.run(["docker", *argv], check=True, capture_output=True, text=True, errors="replace").stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.crs", description=__doc__)
    parser.add_argument("tests", type=Path)
    folder = parser.parse_args().tests
    image = images.ensure(["waf"])["waf"].reference
    began = time.monotonic()
    counts, failed = run(folder, image)
    families = sorted({key.split()[0] for key in counts})
    for family in families:
        good, bad = counts[f"{family} passed"], counts[f"{family} failed"]
        print(f"{family:8} {good:5} of {good + bad:5}  {100 * good / (good + bad):6.2f} %")
    good = sum(count for key, count in counts.items() if key.endswith("passed") and not key.startswith("answers"))
    total = sum(count for key, count in counts.items() if not key.startswith("answers"))
    print(f"requests {good:5} of {total:5}  {100 * good / total:6.2f} %  in {time.monotonic() - began:.0f} s, {image}")
    print("failed:", ", ".join(failed) or "none")


if __name__ == "__main__":
    main()
