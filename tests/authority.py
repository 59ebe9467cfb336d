"""Authorities and certificates of every date and name, made by openssl in a folder."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stack import x509


class Authority:
    """A root, an intermediate authority below it, and whatever it signs, made once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", *self.key("root"), "-days", "3650", "-subj", "/CN=Test Root")
        self._csr("middle", "/CN=Test Middle")
        (folder / "middle.ext").write_text("basicConstraints=critical,CA:TRUE\n")
        self._sign("middle", "root", "-days", "1000")

    def key(self, name: str) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        return [*curve, "-keyout", f"{name}.key", "-out", f"{name}.{'pem' if name == 'root' else 'csr'}"]

    def _csr(self, name: str, subject: str) -> None:
        self._openssl("req", "-new", *self.key(name), "-subj", subject)

    def _sign(self, name: str, by: str, *dates: str) -> None:
        pair = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", *pair, "-out", f"{name}.pem", "-extfile", f"{name}.ext", *dates
        )

    def leaf(self, name: str, *hosts: str, days: float = 90) -> x509.Certificate:
        """A certificate for these names, with NAME.pem (itself alone) and NAME.key."""
        self._csr(name, "/O=none")
        alternative = ",".join(f"DNS:{host}" for host in hosts)
        (self.folder / f"{name}.ext").write_text(
            f"subjectAltName={alternative},IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
        )
        if days >= 1:
            self._sign(name, "middle", "-days", str(int(days)))
        else:
            self._ended(name, days)
        (self.folder / f"{name}.key").chmod(0o600)
        return x509.chain(self.text(f"{name}.pem"))[0]

    def _ended(self, name: str, days: float) -> None:
        """`openssl x509` of Debian 12 writes no past dates; `openssl ca` does."""
        (self.folder / "index.txt").write_text("")
        config = self.folder / "ca.cnf"
        config.write_text(
            "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
            "policy=p\nunique_subject=no\n[p]\norganizationName=optional\n"
        )
        begin, end = (f"{datetime.now(UTC) + timedelta(days=at):%Y%m%d%H%M%SZ}" for at in (days - 90, days))
        pair = ("-cert", "middle.pem", "-keyfile", "middle.key", "-extfile", f"{name}.ext")
        self._openssl(
            "ca", "-batch", "-notext", "-config", "ca.cnf", "-in", f"{name}.csr", "-out", f"{name}.pem", *pair,
            "-startdate", begin, "-enddate", end,
        )  # fmt: skip

    def text(self, *names: str) -> str:
        return "".join((self.folder / name).read_text() for name in names)

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def _openssl(self, *argv: str) -> None:
        done = subprocess.run(["openssl", *argv], cwd=self.folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
