"""python3 -m airgap.images: list, build, show the contract of, or prune the locally built images."""

from __future__ import annotations

import argparse
import json
import sys

from airgap.images import build, engine
from airgap.images.recipe import Recipe, RecipeError, by_name, recipes, reference


def _list() -> None:
    there = engine.present([reference(recipe) for recipe in recipes()])
    width = max(len(recipe.name) for recipe in recipes())
    for recipe in recipes():
        mark = "built  " if reference(recipe) in there else "missing"
        stands_in = "  (a stand-in, not the real server)" if recipe.standin_for else ""
        print(f"{recipe.name:<{width}}  {mark}  {reference(recipe)}{stands_in}")


def _contract(recipe: Recipe) -> None:
    print(f"{recipe.name}: {recipe.title} {recipe.version}\n{recipe.purpose}")
    if recipe.standin_for:
        print(f"A STAND-IN for {recipe.standin_for}")
    print("\nbuilt from")
    for source in recipe.sources:
        print(f"  {source.kind}: {source.name}, {source.version}")
    contract = recipe.contract
    if contract is None:
        print("  Debian packages, as served")
        return
    print(f"\ncontract of {contract.of or 'no official image'}")
    user = contract.user or "root"
    print(f"  user {user}" + (f", also as {contract.also_as}" if contract.also_as else ""))
    for title, value in (
        ("entrypoint", contract.entrypoint),
        ("command", contract.cmd),
    ):
        print(f"  {title} {json.dumps(list(value))}")
    for title, items in (
        ("ports", contract.ports),
        ("volumes", contract.volumes),
        ("programs", contract.programs),
    ):
        print(f"  {title} {', '.join(items) or '-'}")
    print(f"  working directory {contract.workdir or '/'}, stop signal {contract.stop_signal or 'SIGTERM'}")
    for name, value in contract.env.items():
        print(f"  env {name}={value}")
    for title, items in (
        ("keeps", contract.keeps),
        ("better", contract.better),
        ("does not keep", contract.not_kept),
    ):
        if items:
            print(title)
        for item in items:
            print(f"  - {item}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m airgap.images", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="every image, its reference, and whether the engine holds it")
    building = verbs.add_parser("build", help="build what is missing")
    building.add_argument("names", nargs="*", metavar="NAME", help="only these and what they stand on")
    building.add_argument(
        "--jobs",
        type=int,
        default=build.DEFAULT_JOBS,
        help="builds at a time (%(default)s)",
    )
    building.add_argument(
        "--no-cache-files",
        action="store_true",
        help="neither load nor keep compressed image files",
    )
    showing = verbs.add_parser("contract", help="what an image keeps of the official one, and what not")
    showing.add_argument("name", metavar="NAME", choices=sorted(by_name()))
    verbs.add_parser(
        "prune",
        help="remove images, builder stages and cache files no current recipe needs",
    )
    options = parser.parse_args(arguments)
    try:
        if options.verb == "list":
            _list()
        elif options.verb == "contract":
            _contract(by_name()[options.name])
        elif options.verb == "prune":
            for item in build.prune():
                print(f"removed {item}")
        else:
            progress = build.on_terminal(lambda line: print(line, flush=True))
            images = build.ensure(
                options.names or None,
                progress,
                jobs=options.jobs,
                use_cache=not options.no_cache_files,
            )
            for name, image in images.items():
                print(f"{name} {image.reference}")
    except (build.BuildError, engine.EngineError, RecipeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run it again, it goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
