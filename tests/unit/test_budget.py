"""The budget: what is summed, what is refused, and that every way out that is named would really do."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import planview
from stack import catalog
from stack.model import (
    Alternative,
    ByTarget,
    HostProfile,
    ImagePin,
    ModelMemory,
    Profile,
    ResourceLimits,
    ServiceSpec,
    SpecError,
    Target,
    Zone,
)
from stack.plan import Plan, build
from stack.planning.budget import counted_in, memory_by_zone, models_need, use_of
from stack.planning.limits import cores, limits_of
from stack.settings import Settings
from tests import factories as make

CHAT = frozenset({Profile("chat")})


def named_models(settings: Settings) -> tuple[str, ...]:
    return (*settings.models, "nomic-embed-text")


def holder(memory_mb: int = 2304, **changes: Any) -> ServiceSpec:
    """A service that holds models."""
    memory = ModelMemory(
        models=named_models,
        loaded=dict.fromkeys(Target, 2),
        context=dict.fromkeys(Target, 4096),
        cache_bits=dict.fromkeys(Target, 16),
        own_mb=40,
    )
    spec = make.service("models", profiles=CHAT, model_memory=memory, **changes)
    return make.with_container(spec, limits=make.limits(memory_mb=memory_mb))


def sized(name: str, memory_mb: int, **changes: Any) -> ServiceSpec:
    spec = make.service(name, profiles=changes.pop("profiles", CHAT), **changes)
    return make.with_container(spec, limits=make.limits(memory_mb=memory_mb))


def planned(*services: ServiceSpec, host: dict[str, Any] | None = None, **settings: Any) -> Plan:
    return build(make.settings(**settings), make.host(**(host or {})), services)


def refusal(*services: ServiceSpec, host: dict[str, Any] | None = None, **settings: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        planned(*services, host=host, **settings)
    return caught.value


# -------------------------------------------------------------------------------------------------------- limits


def test_the_memory_for_models_is_a_setting() -> None:
    spec, settings = holder(), make.settings(model_memory_mb=9000)
    limits = limits_of(settings, make.host(), spec, spec.containers[0])
    assert limits and limits.memory_mb == 9000
    other = sized("other", 100)
    limits = limits_of(settings, make.host(), other, other.containers[0])
    assert limits and limits.memory_mb == 100


def test_on_an_emulated_host_limits_are_cut_to_what_is_there() -> None:
    spec = make.with_container(make.service("x"), limits=make.limits(cpus=6, cpuset="1-3"))
    cut = limits_of(make.settings(), make.host(cpus=2, emulated=True), spec, spec.containers[0])
    assert cut == replace(spec.containers[0].limits[Target.DEV], cpus=2, cpuset="")
    whole = limits_of(make.settings(), make.host(cpus=2), spec, spec.containers[0])
    assert whole == spec.containers[0].limits[Target.DEV]


@pytest.mark.parametrize(
    ("text", "found"), [("", set()), ("0", {0}), ("1-3", {1, 2, 3}), ("0,2-3,7", {0, 2, 3, 7}), ("2-2", {2})]
)
def test_cores(text: str, found: set[int]) -> None:
    assert cores(text) == found


@pytest.mark.parametrize("text", ["x", "3-1", "1-", "-1", "1;2", "99999"])
def test_no_cores(text: str) -> None:
    with pytest.raises(ValueError, match="is no core"):
        cores(text)


def pinned(cpuset: str) -> ServiceSpec:
    return make.with_container(make.service("x", profiles=CHAT), limits=make.limits(cpuset=cpuset))


def test_cores_that_are_not_there_are_refused_unless_the_machine_is_emulated() -> None:
    (problem,) = refusal(pinned("1-5")).problems
    assert problem.what == "pinned to core 5 of 4"
    assert "emulate: true" in problem.fix
    assert planned(pinned("1-3")).services
    tried = planned(pinned("1-5"), host={"emulated": True}).services[0].containers[0]
    assert (tried.limits.cpuset, tried.emulated) == ("", True)


def test_a_cpuset_that_is_none() -> None:
    assert [problem.what for problem in refusal(pinned("1-x")).problems] == [
        "cpuset: '1-x' is no core and no range of cores, such as 1-3"
    ]


def test_more_processors_than_there_are_are_refused_with_the_way_to_try_it() -> None:
    spec = make.with_container(make.service("x", profiles=CHAT), limits=make.limits(cpus=6))
    (problem,) = refusal(spec).problems
    assert problem.what == "6 CPUs wanted, 4 there"
    assert "emulate: true" in problem.fix
    tried = planned(spec, host={"emulated": True}).services[0].containers[0]
    assert (tried.limits.cpus, tried.declared.cpus, tried.emulated) == (4, 6, True)


# ---------------------------------------------------------------------------------------------------------- sums


def test_each_container_is_counted_once_in_its_first_zone() -> None:
    app = make.with_container(make.service("app"), zones=frozenset({Zone.DATA, Zone.APP, Zone.EGRESS}))
    assert counted_in(app, app.containers[0]) is Zone.APP
    meter = replace(app, counted_in=Zone.OBSERVE)
    assert memory_by_zone(make.settings(), make.host(), [app, meter]) == {Zone.APP: 100, Zone.OBSERVE: 100}


@given(st.lists(st.tuples(st.integers(6, 500), st.sets(st.sampled_from(list(Zone)), min_size=1)), min_size=1))
def test_the_zones_share_all_of_the_memory(drawn: list[tuple[int, set[Zone]]]) -> None:
    services = [
        make.with_container(sized(f"s{number}", size), zones=frozenset(zones))
        for number, (size, zones) in enumerate(drawn)
    ]
    use = use_of(make.settings(), make.host(), services)
    assert use.memory == sum(size for size, _ in drawn)


def test_what_is_kept_for_monitoring_is_kept_until_monitoring_takes_it() -> None:
    host = make.host(observe_mb=1000)
    app, meter = sized("app", 300), sized("meter", 400, counted_in=Zone.OBSERVE)
    assert use_of(make.settings(), host, [app]).memory == 1300
    assert use_of(make.settings(), host, [app, meter]).memory == 1300
    assert use_of(make.settings(), host, [app, meter]).kept == 600
    assert use_of(make.settings(), make.host(observe_mb=1), [app]).memory == 300


def test_monitoring_that_takes_more_than_is_kept_for_it_is_refused() -> None:
    meter = sized("meter", 1700, counted_in=Zone.OBSERVE)
    (problem,) = refusal(meter, host={"observe_mb": 1536}).problems
    assert (problem.where, problem.what) == ("monitoring", "1,700 MB wanted, 1,536 MB kept for it on dev")
    assert "monitoringMb: 1700" in problem.fix


def test_what_is_kept_counts_in_the_refusal() -> None:
    (problem,) = refusal(sized("app", 2000), host={"observe_mb": 1536}).problems
    assert problem.what.startswith("3,536 MB wanted, 3,072 MB to give")
    assert "kept for monitoring 1,536" in problem.fix


# --------------------------------------------------------------------------------------------------------- models


def test_models_need_what_the_largest_of_them_take_at_once() -> None:
    spec, host = holder(), make.host()
    one = models_need(make.settings(models=("llama3.2:1b",)), host, spec)
    two = models_need(make.settings(models=("llama3.2:1b", "llama3.2:3b")), host, spec)
    three = models_need(make.settings(models=("llama3.2:1b", "llama3.2:3b", "llama3.2:1b-instruct-q4_K_M")), host, spec)
    assert 1843 + 362 + 40 == one < two == three


def test_models_that_do_not_fit_are_refused_with_those_that_would() -> None:
    (problem,) = refusal(holder(2304), models=("llama3.2:3b",)).problems
    assert problem.where == "models"
    assert problem.what == "2,652 MB needed for the largest, 2,304 MB there for models on dev (by its name)"
    assert "llama3.2:3b 2,612 · nomic-embed-text 362" in problem.fix
    assert "would fit: llama3.2:1b instead of llama3.2:3b or modelMemoryMb: 2688" in problem.fix
    assert planned(holder(2304), models=("llama3.2:1b",))


def test_models_that_do_not_fit_together_take_turns() -> None:
    """The server unloads one for another: only a model that does not fit alone is refused."""
    resolved = planned(holder(2304), models=("llama3.2:1b", "gemma3:1b"))
    assert models_need(resolved.settings, resolved.host, holder()) > 2304
    assert "they take turns" in planview.table(resolved)
    assert "they take turns" not in planview.table(planned(holder(2304), models=("llama3.2:1b",)))
    assert "models  2,245 of 2,304 MB at once, by their names" in planview.table(
        planned(holder(2304), models=("llama3.2:1b",))
    )
    assert "of unknown size: some/thing" in planview.table(planned(holder(2304), models=("some/thing",)))


def test_room_for_monitoring_may_be_given_up() -> None:
    (problem,) = refusal(sized("app", 2000), sized("b", 300), host={"observe_mb": 1536}).problems
    assert ways(problem.fix)[0] == "monitoringMb: 1, without room for monitoring (saves 1,536)"
    assert planned(sized("app", 2000), sized("b", 300), host={"observe_mb": 1})


def test_a_model_of_unknown_size_is_not_guessed_at() -> None:
    assert planned(holder(600), models=("somebody/something:else",))
    assert models_need(make.settings(models=("what",)), make.host(), holder()) == 362 + 40


def test_models_take_disk() -> None:
    (problem,) = refusal(holder(9000), host={"disk_gb": 3, "memory_mb": 32768}, models=("llama3.1:8b",)).problems
    assert problem.where == "disk"
    assert "4,896 MB for models, 3,072 MB there" in problem.what
    assert "llama3.1:8b 4,634" in problem.fix


def test_models_must_fit_the_card_whose_memory_is_said() -> None:
    held = make.with_container(holder(9000), limits=make.limits(memory_mb=9000, gpu=True))
    host = {"gpu": True, "memory_mb": 32768}
    assert planned(held, host=host, models=("llama3.1:8b",))
    assert planned(held, host=host, models=("llama3.1:8b",), gpu_memory_mb=8192)
    (problem,) = refusal(held, host=host, models=("llama3.1:8b",), gpu_memory_mb=4096).problems
    assert problem.what == (
        "5,660 MB needed for the largest, 4,096 MB there on the card of models on dev (by its name)"
    )
    assert "gpuMemoryMb: 5696 if the machine has it" in problem.fix
    (problem,) = refusal(holder(9000), host={"memory_mb": 32768}, models=("llama3.1:8b",), gpu_memory_mb=4096).problems
    assert (problem.where, "take it out" in problem.fix) == ("gpuMemoryMb", True)


# ------------------------------------------------------------------------------------------------------- ways out


def ways(problem_fix: str) -> list[str]:
    return problem_fix.rpartition("would fit: ")[2].split(" or ")


def test_no_more_memory_than_the_models_need_is_the_cheapest_way() -> None:
    (problem,) = refusal(holder(3100), sized("app", 500), models=("llama3.2:1b",)).problems
    assert ways(problem.fix)[0] == "modelMemoryMb: 2304 (saves 796)"


def test_a_smaller_model_comes_before_a_service_less() -> None:
    (problem,) = refusal(holder(3100), sized("app", 500), models=("llama3.2:3b",)).problems
    assert ways(problem.fix)[0] == "llama3.2:1b instead of llama3.2:3b, modelMemoryMb: 2304 (saves 796)"


def test_a_lighter_service_comes_before_none() -> None:
    heavy = sized("heavy", 3000, alternatives=(Alternative("light", "filters by country"),))
    (problem,) = refusal(heavy, sized("light", 200, profiles=frozenset()), sized("app", 500)).problems
    assert ways(problem.fix)[0] == (
        "light instead of heavy, without filters by country: services: [light], without: [heavy] (saves 2,800)"
    )
    decided = planned(heavy, sized("light", 200, profiles=frozenset()), sized("app", 500), services=("light",),
                      without=("heavy",))  # fmt: skip
    assert [service.name for service in decided.services] == ["app", "light"]


def test_a_lighter_service_is_not_offered_for_one_that_others_name() -> None:
    heavy = sized("heavy", 3000, alternatives=(Alternative("light", "x"),))
    user = sized("user", 500, needs=("heavy",))
    (problem,) = refusal(heavy, user, sized("light", 200, profiles=frozenset())).problems
    assert "light" not in problem.fix


def test_what_stands_in_must_be_there() -> None:
    heavy = sized("heavy", 100, alternatives=(Alternative("lihgt", "x"),))
    (problem,) = refusal(heavy).problems
    assert problem.what == '"lihgt" cannot stand in for heavy'


def test_two_changes_where_one_is_not_enough() -> None:
    a, b, c = sized("a", 1400), sized("b", 1400), sized("c", 1400)
    (problem,) = refusal(a, b, c, host={"memory_mb": 2500}).problems
    assert ways(problem.fix)[0] == "without: [a] with without: [b] (saves 2,800)"


def test_many_changes_where_three_are_not_enough() -> None:
    services = [sized(f"s{number}", 1000) for number in range(8)]
    (problem,) = refusal(*services, host={"memory_mb": 1024 + 3000}).problems
    assert ways(problem.fix)[0].count("without: [s") == 5
    assert "(saves 5,000)" in ways(problem.fix)[0]


def test_a_refusal_of_many_services_takes_no_time() -> None:
    """Forty services, of which three or more must go: the search stays below what anybody would notice."""
    services = [sized(f"s{number}", 300 + number) for number in range(40)]
    started = time.process_time()
    refusal(*services, host={"memory_mb": 1024 + sum(300 + number for number in range(40)) - 1000})
    assert time.process_time() - started < 3  # 0.3 s on an idle machine


def test_what_the_server_is_told_is_what_is_counted() -> None:
    """The variables of Ollama and the plan's estimate say the same."""
    ollama = next(spec for spec in catalog.discover() if spec.name == "ollama")
    memory, env = ollama.model_memory, ollama.container().env
    assert memory is not None
    for name, counted in (
        ("OLLAMA_MAX_LOADED_MODELS", memory.loaded),
        ("OLLAMA_CONTEXT_LENGTH", memory.context),
        ("OLLAMA_KV_CACHE_TYPE", memory.cache_bits),
    ):
        said = env[name]
        assert isinstance(said, ByTarget)
        bits = {"f16": 16, "q8_0": 8, "q4_0": 4}
        assert {target: bits.get(text) or int(text) for target, text in said.values.items()} == dict(counted)


def test_where_nothing_helps_only_a_larger_machine_does() -> None:
    (problem,) = refusal(sized("a", 9000)).problems
    assert ways(problem.fix) == ["memoryMb: 10024 if the machine has it"]


def test_named_services_are_left_out_where_they_are_named() -> None:
    (problem,) = refusal(sized("a", 9000, profiles=frozenset()), sized("b", 10), services=("a",)).problems
    assert ways(problem.fix)[0] == "services without a (saves 9,000)"


SIZES = st.lists(st.integers(50, 3000), min_size=2, max_size=6)


@given(SIZES, st.integers(0, 2500), st.booleans())
def test_every_way_out_would_do(sizes: list[int], room: int, model: bool) -> None:
    """What a refusal says would fit, does: it is read as an operator reads it, and planned again."""
    services = [sized(f"s{number}", size) for number, size in enumerate(sizes)]
    services += [holder(3100)] if model else []
    chosen = {"models": ("llama3.2:3b",)} if model else {}
    host: dict[str, Any] = {"memory_mb": 1024 + 600 + room}
    try:
        planned(*services, host=host, **chosen)
    except SpecError as error:
        (problem,) = (found for found in error.problems if found.where == "memory")
        for way in ways(problem.fix):
            changed: dict[str, Any] = dict(chosen)
            if left_out := re.findall(r"without: \[(s\d+|models)\]", way):
                changed["without"] = tuple(left_out)
            if space := re.search(r"modelMemoryMb: (\d+)", way):
                changed["model_memory_mb"] = int(space[1])
            if "instead of" in way:
                changed["models"] = (way.partition(" instead")[0].rpartition(" ")[2],)
            larger = re.search(r"memoryMb: (\d+) if", way)
            assert planned(*services, host={"memory_mb": int(larger[1])} if larger else host, **changed)


# ------------------------------------------------------------------------------------------------ named services


def test_a_named_service_brings_what_it_needs() -> None:
    resolved = planned(*make.catalog(), sized("extra", 50, profiles=frozenset(), needs=("cache",)), services=("extra",))
    assert resolved.service("extra").why == ("named",)
    assert resolved.service("cache").why == ("app", "extra")


def test_named_and_in_a_profile_says_both() -> None:
    assert planned(*make.catalog(), services=("app",)).service("app").why == ("profile chat", "named")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"services": ("exrta",)}, 'is no service. Did you mean "extra"?'),
        ({"services": ("extra",), "without": ("extra",)}, 'stands in "without" as well'),
        ({"services": ("extra",), "retired": ("extra",)}, 'stands in "retired" as well'),
        ({"services": ("far",)}, "runs on gpu only, and this is dev"),
    ],
)
def test_a_named_service_that_cannot_be_had(settings: dict[str, Any], says: str) -> None:
    extra = sized("extra", 50, profiles=frozenset())
    far = sized("far", 50, profiles=frozenset(), targets=frozenset({Target.GPU}))
    (problem,) = refusal(*make.catalog(), extra, far, **settings).problems
    assert problem.where == "services[0]"
    assert says in problem.fix


# --------------------------------------------------------------------------------------------------- page sizes


@pytest.mark.parametrize(("pages", "host_pages", "fits"), [
    ({4096}, 4096, True), ({4096}, 16384, False), ({4096, 16384}, 16384, True),
])  # fmt: skip
def test_an_image_must_run_with_the_kernels_pages(pages: set[int], host_pages: int, fits: bool) -> None:
    pin: ImagePin = replace(make.IMAGE, name="jemalloc", page_sizes=frozenset(pages))
    spec = make.with_container(make.service("x", profiles=CHAT), image=pin)
    host: dict[str, Any] = {"page_size": host_pages}
    if fits:
        assert planned(spec, host=host)
        return
    (problem,) = refusal(spec, host=host).problems
    assert problem.what == "image jemalloc runs with 4 KiB pages only, and this kernel has 16 KiB"
    assert "kernel8.img" in problem.fix and "pageSize: 4096" in problem.fix


# ------------------------------------------------------------------------------------------------ the real targets


def test_the_real_limits_are_those_that_were_asked_for(root: Any) -> None:
    from ops.planview import load_plan

    gpu = load_plan(root, "gpu").service("ollama").containers[0].limits
    assert (gpu.memory_mb, gpu.cpus, gpu.shm_mb, gpu.gpu) == (32768, 6, 2048, True)
    pi = load_plan(root, "pi")
    assert pi.host.observe_mb == 1536
    assert pi.service("ollama").containers[0].limits.cpuset == "1-3"


def test_a_pi_with_16_gb_takes_a_larger_model(root: Any) -> None:
    from ops.planview import load_plan

    larger = {"memoryMb": 16384, "modelMemoryMb": 7168, "models": ["llama3.1:8b"]}
    assert load_plan(root, "pi", larger).service("ollama").containers[0].limits.memory_mb == 7168
    with pytest.raises(SpecError, match="needed for the largest"):
        load_plan(root, "pi", {"models": ["llama3.1:8b"]})
    with pytest.raises(SpecError, match="to give"):
        load_plan(root, "pi", {"models": ["llama3.1:8b"], "modelMemoryMb": 7168})


def test_a_pi_is_tried_on_two_cores_only_when_that_is_said(root: Any) -> None:
    from ops.planview import load_plan

    with pytest.raises(SpecError) as caught:
        load_plan(root, "pi", {"cpus": 2})
    assert {"3 CPUs wanted, 2 there", "pinned to core 3 of 2"} <= {problem.what for problem in caught.value.problems}
    tried = load_plan(root, "pi", {"cpus": 2, "emulate": True})
    assert tried.service("ollama").containers[0].limits == ResourceLimits(memory_mb=3100, cpus=2, pids=512)
    assert {arch.value for arch in tried.host.arches} == {"amd64", "arm64"}


def test_the_host_of_the_factories_is_not_emulated() -> None:
    host: HostProfile = make.host()
    assert not host.emulated
