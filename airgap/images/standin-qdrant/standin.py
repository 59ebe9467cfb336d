#!/usr/bin/env python3
"""standin-qdrant: stands in for Qdrant's server where that cannot be had. It is not Qdrant.

The engine is Qdrant's own, as the library qdrant-edge: vectors, HNSW, filters, payload, log. Everything around it is ours:
HTTP, the API key, collections on disk. It speaks the part of the REST API that the stack's services use, and answers 404
to the rest. No gRPC, no cluster, no snapshots, no aliases, no named or sparse vectors, no other key than the one.

Usage: standin.py [--config-path FILE]. The file is Qdrant's, in YAML; read of it: service.host, service.http_port,
service.api_key, service.read_only_api_key (refused), service.max_request_size_mb, storage.storage_path,
storage.on_disk_payload. QDRANT__SECTION__KEY overrides, as with the server.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import qdrant_edge as edge
import yaml

NAME = "standin-qdrant"
API = "1.18.0"  # the version of the REST API that this speaks a part of: clients compare it with theirs
OPEN = frozenset({"/", "/healthz", "/livez", "/readyz"})
FLUSH_S = 5.0
DISTANCES = {"Cosine": edge.Distance.Cosine, "Euclid": edge.Distance.Euclid, "Dot": edge.Distance.Dot}


class Refused(Exception):
    """A request that is answered with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def settings(path: str) -> dict[str, Any]:
    """The configuration, with what the environment overrides."""
    found: dict[str, Any] = {}
    if path:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file) or {}
    for name, value in os.environ.items():
        if name.startswith("QDRANT__"):
            *sections, key = name.removeprefix("QDRANT__").lower().split("__")
            place = found
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = yaml.safe_load(value)
    return found


# ------------------------------------------------------------------------------------------------ the engine


def condition(raw: dict[str, Any]) -> Any:
    """One condition of a filter. Refused when it is of a kind that is not spoken here."""
    said = {key: value for key, value in raw.items() if value is not None}
    match = said.get("match") or {}
    match = {key: value for key, value in match.items() if value is not None}
    if said.keys() == {"has_id"}:
        return edge.HasIdCondition(set(said["has_id"]))
    if said.keys() == {"is_empty"}:
        return edge.IsEmptyCondition(said["is_empty"]["key"])
    if said.keys() == {"is_null"}:
        return edge.IsNullCondition(said["is_null"]["key"])
    if said.keys() & {"must", "should", "must_not"}:
        return conditions(said)
    if said.keys() == {"key", "range"}:
        bounds = {key: said["range"].get(key) for key in ("gte", "gt", "lte", "lt")}
        return edge.FieldCondition(said["key"], range=edge.RangeFloat(**bounds))
    if said.keys() == {"key", "match"} and match.keys() == {"value"}:
        return edge.FieldCondition(said["key"], match=edge.MatchValue(match["value"]))
    if said.keys() == {"key", "match"} and match.keys() == {"any"}:
        return edge.FieldCondition(said["key"], match=edge.MatchAny(match["any"]))
    if said.keys() == {"key", "match"} and match.keys() == {"except"}:
        return edge.FieldCondition(said["key"], match=edge.MatchExcept(match["except"]))
    raise Refused(400, f"{NAME} does not know this condition: {json.dumps(raw)[:200]}")


def conditions(raw: dict[str, Any] | None) -> Any:
    """A filter; None where there is none."""
    if not raw:
        return None
    if unknown := {key for key, value in raw.items() if value is not None} - {"must", "should", "must_not"}:
        raise Refused(400, f"{NAME} does not know this in a filter: {', '.join(sorted(unknown))}")

    def several(key: str) -> list[Any] | None:
        found = raw.get(key)
        if found is None:
            return None
        return [condition(item) for item in (found if isinstance(found, list) else [found])]

    return edge.Filter(must=several("must"), should=several("should"), must_not=several("must_not"))


def plain(value: Any) -> Any:
    """Ids are numbers or UUIDs."""
    return value if value is None or isinstance(value, int) else str(value)


class Collection:
    """One collection: a shard of the engine, and how it was made."""

    def __init__(self, folder: Path, made: dict[str, Any], shard: Any) -> None:
        self.folder, self.made, self.shard = folder, made, shard
        self.changed = False
        self.operations = 0

    def update(self, operation: Any) -> dict[str, Any]:
        self.shard.update(operation)
        self.changed = True
        self.operations += 1
        return {"operation_id": self.operations, "status": "completed"}


class Store:
    """Every collection. The engine is used by one thread only, so each request is whole."""

    def __init__(self, folder: Path, *, on_disk_payload: bool) -> None:
        # Not "collections": that is the real server's, and what it holds must outlive this one.
        self.folder = folder / "standin"
        self.on_disk_payload = on_disk_payload
        self.all: dict[str, Collection] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.iterdir()):
            made = path / "collection.json"
            if not made.is_file():  # its making or removal was interrupted
                shutil.rmtree(path)
                continue
            config = json.loads(made.read_text(encoding="utf-8"))
            self.all[unquote(path.name)] = Collection(path, config, edge.EdgeShard.load(str(path / "shard")))

    def flush(self) -> None:
        """Write down what changed, and let the engine put its segments in order."""
        for collection in self.all.values():
            if collection.changed:
                collection.changed = False
                collection.shard.optimize()
                collection.shard.flush()

    def close(self) -> None:
        for collection in self.all.values():
            collection.shard.flush()
            collection.shard.close()

    def get(self, name: str) -> Collection:
        if name not in self.all:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.all[name]

    # Each of these is one endpoint: (name, body, query) -> result.

    def names(self, name: str, body: Any, query: dict[str, str]) -> Any:
        return {"collections": [{"name": each} for each in sorted(self.all)]}

    def exists(self, name: str, body: Any, query: dict[str, str]) -> Any:
        return {"exists": name in self.all}

    def describe(self, name: str, body: Any, query: dict[str, str]) -> Any:
        collection = self.get(name)
        info = collection.shard.info()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": info.indexed_vectors_count,
            "points_count": info.points_count,
            "segments_count": info.segments_count,
            "config": {
                "params": {"vectors": collection.made["vectors"], "on_disk_payload": self.on_disk_payload},
                "hnsw_config": hnsw(collection.made),
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": int(FLUSH_S),
                },
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
            },
            "payload_schema": {
                field: {"data_type": "keyword", "points": 0} for field in collection.made.get("indexes", [])
            },
        }

    def create(self, name: str, body: Any, query: dict[str, str]) -> Any:
        if name in ("", ".", "..") or len(name) > 255 or re.search(r'[<>:"/\\|?*\x00-\x1f]', name):
            raise Refused(422, f"Validation error in path parameters: collection name {name!r}")
        if name in self.all:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        vectors = body.get("vectors") or {}
        if "size" not in vectors or vectors.get("distance") not in DISTANCES or body.get("sparse_vectors"):
            raise Refused(400, f"{NAME} takes one unnamed dense vector: size and distance of {', '.join(DISTANCES)}")
        made = {"vectors": vectors, "hnsw_config": body.get("hnsw_config") or {}, "indexes": []}
        parameters = edge.EdgeVectorParams(
            vectors["size"], DISTANCES[vectors["distance"]], on_disk=vectors.get("on_disk")
        )
        config = edge.EdgeConfig(
            vectors=parameters, on_disk_payload=self.on_disk_payload, hnsw_config=edge.HnswIndexConfig(**hnsw(made))
        )
        folder = self.folder / quote(name, safe="")
        shard = edge.EdgeShard.create(str(folder / "shard"), config)
        shard.flush()
        self.all[name] = Collection(folder, made, shard)
        self._keep(self.all[name])
        return True

    def _keep(self, collection: Collection) -> None:
        """Last of all, and at once: a folder without it is no collection."""
        partial = collection.folder / "collection.json.new"
        partial.write_text(json.dumps(collection.made), encoding="utf-8")
        partial.rename(collection.folder / "collection.json")

    def drop(self, name: str, body: Any, query: dict[str, str]) -> Any:
        collection = self.all.pop(name, None)
        if collection is None:
            return False
        (collection.folder / "collection.json").unlink()
        collection.shard.close()
        shutil.rmtree(collection.folder)
        return True

    def index(self, name: str, body: Any, query: dict[str, str]) -> Any:
        collection, schema = self.get(name), body.get("field_schema")
        schema = {"type": schema} if isinstance(schema, str) else schema or {}
        if schema.get("type") != "keyword":
            raise Refused(400, f"{NAME} indexes keywords only")
        parameters = edge.KeywordIndexParams(is_tenant=schema.get("is_tenant"), on_disk=schema.get("on_disk"))
        done = collection.update(edge.UpdateOperation.create_field_index(body["field_name"], parameters))
        if body["field_name"] not in collection.made["indexes"]:
            collection.made["indexes"].append(body["field_name"])
            self._keep(collection)
        return done

    def upsert(self, name: str, body: Any, query: dict[str, str]) -> Any:
        collection = self.get(name)
        size = collection.made["vectors"]["size"]
        points: list[Any] = []
        for raw in body.get("points") or []:
            if not isinstance(raw.get("vector"), list) or len(raw["vector"]) != size:
                wrong = len(raw["vector"]) if isinstance(raw.get("vector"), list) else "none"
                raise Refused(400, f"Wrong input: Vector dimension error: expected dim: {size}, got {wrong}")
            points.append(edge.Point(raw["id"], raw["vector"], raw.get("payload") or {}))
        if not points:
            raise Refused(400, f"{NAME} takes points as a list")
        return collection.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, name: str, body: Any, query: dict[str, str]) -> Any:
        collection = self.get(name)
        if body.get("points") is not None:
            return collection.update(edge.UpdateOperation.delete_points(body["points"]))
        found = conditions(body.get("filter"))
        if found is None:
            raise Refused(400, "points or filter: one is needed")
        return collection.update(edge.UpdateOperation.delete_points_by_filter(found))

    def count(self, name: str, body: Any, query: dict[str, str]) -> Any:
        shard = self.get(name).shard
        return {"count": shard.count(edge.CountRequest(exact=True, filter=conditions(body.get("filter"))))}

    def query(self, name: str, body: Any, query: dict[str, str]) -> Any:
        wanted = body.get("query")
        wanted = wanted.get("nearest") if isinstance(wanted, dict) else wanted
        if not isinstance(wanted, list) or body.get("prefetch") or body.get("using"):
            raise Refused(400, f"{NAME} finds what is nearest to one vector")
        collection = self.get(name)
        size = collection.made["vectors"]["size"]
        if len(wanted) != size:
            raise Refused(400, f"Wrong input: Vector dimension error: expected dim: {size}, got {len(wanted)}")
        request = edge.QueryRequest(
            limit=int(body.get("limit") or 10),
            offset=int(body.get("offset") or 0),
            query=edge.Query.Nearest(wanted),
            filter=conditions(body.get("filter")),
            score_threshold=body.get("score_threshold"),
            with_payload=bool(body.get("with_payload", False)),
            with_vector=bool(body.get("with_vector", False)),
        )
        points = collection.shard.query(request)
        return {"points": [{**record(point), "version": point.version, "score": point.score} for point in points]}

    def scroll(self, name: str, body: Any, query: dict[str, str]) -> Any:
        request = edge.ScrollRequest(
            offset=body.get("offset"),
            limit=int(body.get("limit") or 10),
            filter=conditions(body.get("filter")),
            with_payload=bool(body.get("with_payload", True)),
            with_vector=bool(body.get("with_vector", False)),
        )
        points, after = self.get(name).shard.scroll(request)
        return {"points": [record(point) for point in points], "next_page_offset": plain(after)}

    def retrieve(self, name: str, body: Any, query: dict[str, str]) -> Any:
        with_payload, with_vector = bool(body.get("with_payload", True)), bool(body.get("with_vector", False))
        return [record(point) for point in self.get(name).shard.retrieve(body["ids"], with_payload, with_vector)]


def hnsw(made: dict[str, Any]) -> dict[str, Any]:
    """The index's parameters: what the collection was made with, on Qdrant's defaults."""
    found = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
    asked = made.get("hnsw_config") or {}
    known = (*found, "payload_m", "on_disk", "max_indexing_threads")
    return found | {key: asked[key] for key in known if asked.get(key) is not None}


def record(point: Any) -> dict[str, Any]:
    """A point as it is answered; its id comes first, as the server writes it."""
    found: dict[str, Any] = {"id": plain(point.id)}
    if point.payload is not None:
        found["payload"] = point.payload
    if point.vector is not None:
        found["vector"] = point.vector
    return found


Endpoint = Callable[[Store, str, Any, dict[str, str]], Any]
ROUTES: tuple[tuple[str, re.Pattern[str], Endpoint], ...] = tuple(
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("GET", r"/collections/?", Store.names),
        ("GET", r"/collections/(?P<name>[^/]+)", Store.describe),
        ("GET", r"/collections/(?P<name>[^/]+)/exists", Store.exists),
        ("PUT", r"/collections/(?P<name>[^/]+)", Store.create),
        ("DELETE", r"/collections/(?P<name>[^/]+)", Store.drop),
        ("PUT", r"/collections/(?P<name>[^/]+)/index", Store.index),
        ("PUT", r"/collections/(?P<name>[^/]+)/points", Store.upsert),
        ("POST", r"/collections/(?P<name>[^/]+)/points", Store.retrieve),
        ("POST", r"/collections/(?P<name>[^/]+)/points/count", Store.count),
        ("POST", r"/collections/(?P<name>[^/]+)/points/delete", Store.delete),
        ("POST", r"/collections/(?P<name>[^/]+)/points/query", Store.query),
        ("POST", r"/collections/(?P<name>[^/]+)/points/scroll", Store.scroll),
    )
)


# ---------------------------------------------------------------------------------------------------- HTTP


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], store: Store, engine: ThreadPoolExecutor, key: str, limit: int) -> None:
        self.store, self.engine, self.key, self.limit = store, engine, key.encode(), limit
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up before the answer is read, as the health probe does, is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = NAME
    sys_version = ""
    timeout = 75

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        begin = time.monotonic()
        status, body = 200, b""
        try:
            raw = self._body()
            path = urlsplit(self.path).path
            if path in OPEN:
                body = self._open(path)
            else:
                self._allowed()
                body = json_bytes({"result": self._result(path, raw), "status": "ok", "time": time.monotonic() - begin})
        except Refused as refused:
            status, body = refused.status, json_bytes(
                {"status": {"error": str(refused)}, "time": time.monotonic() - begin}
            )
        except Exception as failed:  # what the engine complains of is the request's fault as far as anybody can tell
            print(f"{self.command} {urlsplit(self.path).path}: {type(failed).__name__}: {failed}", flush=True)
            status, body = 400, json_bytes({"status": {"error": f"Wrong input: {failed}"}, "time": 0.0})
        kind = "application/json" if body.startswith(b"{") else "text/plain"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise Refused(400, "a body needs its length")
        if int(length) > self.server.limit:
            self.close_connection = True
            raise Refused(413, "Payload error: JSON payload is larger than allowed")
        return self.rfile.read(int(length))

    def _open(self, path: str) -> bytes:
        if path == "/":
            return json_bytes({"title": f"{NAME} - not Qdrant", "version": API})
        return path.lstrip("/").encode() + b" check passed"

    def _allowed(self) -> None:
        """As the server has it: one key, in a header of its own or as a bearer."""
        if not self.server.key:
            return
        said = self.headers.get("api-key") or ""
        if not said and (bearer := self.headers.get("Authorization") or "").lower().startswith("bearer "):
            said = bearer[7:]
        if not said:
            raise Refused(401, "Must provide an API key or an Authorization bearer token")
        if not hmac.compare_digest(said.encode("latin-1", "replace"), self.server.key):
            raise Refused(401, "Invalid API key or JWT")

    def _result(self, path: str, raw: bytes) -> Any:
        for method, pattern, function in ROUTES:
            found = pattern.fullmatch(path)
            if found and method == self.command:
                try:
                    body = json.loads(raw) if raw.strip() else {}
                except ValueError as error:
                    raise Refused(400, f"Format error in JSON body: {error}") from error
                if not isinstance(body, dict):
                    raise Refused(400, "Format error in JSON body: no object")
                query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
                name = unquote(found.groupdict().get("name") or "")
                return self._asked(function, name, body, query)
        print(f"not spoken here: {self.command} {path}", flush=True)
        raise Refused(404, f"{NAME} does not speak this part of the API")

    def _asked(self, function: Endpoint, name: str, body: Any, query: dict[str, str]) -> Any:
        try:
            return self.server.engine.submit(function, self.server.store, name, body, query).result()
        except Exception:
            raise
        except BaseException as failed:  # how the engine's language tells of what it did not expect
            raise RuntimeError(str(failed)) from failed

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of a request: paths hold the names of collections."""


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-path", default="")
    config = settings(parser.parse_args().config_path)
    service, storage = config.get("service") or {}, config.get("storage") or {}
    if service.get("read_only_api_key"):
        print(f"{NAME}: there is one key only: read_only_api_key is not supported", file=sys.stderr)
        return 1
    print(f"{NAME}: stands in for Qdrant's server on the engine of its library; it is not Qdrant", flush=True)
    engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
    folder = Path(storage.get("storage_path") or "./storage")
    store = engine.submit(Store, folder, on_disk_payload=bool(storage.get("on_disk_payload", True))).result()
    address = (str(service.get("host") or "0.0.0.0"), int(service.get("http_port") or 6333))
    limit = int(service.get("max_request_size_mb") or 32) * 2**20
    server = Server(address, store, engine, str(service.get("api_key") or ""), limit)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    print(f"{NAME}: {len(store.all)} collections, listening on port {address[1]}", flush=True)
    while not stop.wait(FLUSH_S):
        engine.submit(store.flush).result()
    server.shutdown()
    engine.submit(store.close).result()
    print(f"{NAME}: stopped", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
