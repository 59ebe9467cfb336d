"""How long a page takes through the front door: the first answer, and the page with everything it names.

    .venv/bin/python -m bench.page [STACK] [-n LOADS]

Needs a stack that is up. Each load is a new visitor: new connections, TLS handshake included, nothing cached, and the
scripts, styles and images that the page's text names fetched six at a time as a browser does. What a browser then
computes is not in it. The aim is a median below 2 s.
"""

from __future__ import annotations

import argparse
import re
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin, urlsplit

from bench.measure import Series, header, table
from ops import frontdoor
from ops.session import Session
from stack.plan import Plan

AIM_S = 2.0
AT_ONCE = 6


def named(page: str, url: str) -> list[str]:
    """What a page's text has its browser fetch from the same host, each once."""
    links = re.findall(r'<(?:script|link|img)\b[^>]*?\b(?:src|href)="([^"]+)"', page)
    links += re.findall(r'import\("([^"]+)"\)', page)
    full = dict.fromkeys(urljoin(url, link) for link in links)
    return [link for link in full if urlsplit(link).netloc == urlsplit(url).netloc]


def load(plan: Plan, ca_pem: str, url: str) -> tuple[float, float, int]:
    """Seconds to the page's text, seconds to all of it, and its bytes."""
    with frontdoor.browser(plan.settings.domain, frontdoor.address_of(plan), ca_pem) as visitor:
        begin = time.monotonic()
        page = visitor.get(url)
        page.raise_for_status()
        text = time.monotonic() - begin
        with ThreadPoolExecutor(AT_ONCE) as pool:
            parts = list(pool.map(visitor.get, named(page.text, url)))
        for part in parts:
            part.raise_for_status()
        return text, time.monotonic() - begin, len(page.content) + sum(len(part.content) for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", nargs="?", default="dev")
    parser.add_argument("-n", type=int, default=20)
    arguments = parser.parse_args()
    session = Session(arguments.stack)
    plan = session.plan()
    ca_pem = session.state.ca_file.read_text(encoding="utf-8")
    ssl.create_default_context(cadata=ca_pem)
    print(header(f"{arguments.n} page loads through the front door"))
    worst = 0.0
    for service in plan.running:
        for route in service.spec.routes:
            url = plan.url(route)
            times = [load(plan, ca_pem, f"{url}/") for _ in range(arguments.n)]
            first = Series(f"{route.name}: first answer", [one[0] for one in times])
            whole = Series(
                f"{route.name}: with everything it names ({times[0][2] / 2**20:.1f} MB)", [t[1] for t in times]
            )
            print(table([first, whole]))
            worst = max(worst, whole.median)
    return 0 if worst < AIM_S else 1


if __name__ == "__main__":
    sys.exit(main())
