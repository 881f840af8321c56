"""Each call that changes something leaves one trace, a call that reads none: with a real daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from imsd.core.actions import OPERATIONS
from imsd.grpc_server.image_servicer import ImageServicer
from imsd.v1 import identity_pb2, image_pb2, tag_pb2, trace_pb2
from tests.contract.test_actions import METHODS
from tests.end_to_end import wire
from tests.end_to_end.block_server_process import BlockServerProcess
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.test_policies import harmless, make_user, reason_of_call
from tests.end_to_end.trace_story import DISK, STEPS, Step, Story

CHAINS = ("blue", "red", "@service")
MUTATIONS = [method for method, operation in OPERATIONS.items() if operation.is_mutation]
SERVICE = trace_pb2.ListTracesRequest(project_id="@service", page_size=1000)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("imsd")
    (folder / "bucket").mkdir()
    config = folder / "imsd.toml"
    bucket = f'driver = "localfs"\npath = "{folder}/bucket"\nprojects = ["blue"]'
    passphrase = folder / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    passphrase.chmod(0o600)
    stores = [f'[stores.{name}]\ndriver = "localfs"\npath = "{folder}/{name}"' for name in ("main", "second")]
    keys = f'driver = "local"\npath = "{folder}/keyring"\npassphrase_file = "{passphrase}"'
    sections = (f"[buckets.main]\n{bucket}", *stores, f"[key_services.main]\n{keys}")
    config.write_text("\n".join(sections))
    block_server = BlockServerProcess()
    daemon = DaemonProcess(folder, config=config, block_server__run_dir=block_server.run_dir)
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    block_server.close()


@pytest.fixture
async def channel(shared: DaemonProcess) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(shared.address) as channel:
        stubs = Stubs(channel)
        listed = await stubs.identity.ListProjects(identity_pb2.ListProjectsRequest())
        if "blue" not in {project.id for project in listed.projects}:
            await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id="blue"))
        yield channel


async def traces(stubs: Stubs) -> dict[str, trace_pb2.Trace]:
    """All there are, by id, oldest first in their chains."""
    found: dict[str, trace_pb2.Trace] = {}
    for project_id in CHAINS:
        request = trace_pb2.ExportTracesRequest(project_id=project_id)
        async for piece in stubs.traces.ExportTraces(request):
            found |= {trace.id: trace for trace in piece.traces}
    return found


async def new_traces(stubs: Stubs, before: dict[str, trace_pb2.Trace]) -> list[trace_pb2.Trace]:
    return [trace for trace_id, trace in (await traces(stubs)).items() if trace_id not in before]


def outcome(trace: trace_pb2.Trace) -> str:
    return trace_pb2.TraceOutcome.Name(trace.outcome).removeprefix("TRACE_OUTCOME_")


async def intact(stubs: Stubs) -> list[str]:
    """What is wrong with any chain."""
    problems = []
    for project_id in CHAINS:
        check = await stubs.traces.VerifyTraces(trace_pb2.VerifyTracesRequest(project_id=project_id))
        problems += check.problems
        assert check.is_intact is not bool(check.problems)
    return problems


def test_every_call_that_changes_something_has_a_step_in_the_story() -> None:
    assert sorted(f"imsd.v1.{step.call}" for step in STEPS) == sorted(MUTATIONS)


def is_served(step: Step) -> bool:
    """Whether the daemon has the call."""
    return step.name != "RegisterImage" or "RegisterImage" in vars(ImageServicer)


async def test_each_call_that_succeeds_leaves_one_trace(channel: Any) -> None:
    stubs = Stubs(channel)
    story = Story(stubs, await wire.import_disk(stubs, DISK, project_id="blue", name="disk"))
    story.answers["spare"] = await wire.open_upload(stubs, project_id="blue", size_bytes=1)
    story.answers["full"] = await wire.send(stubs, DISK, project_id="blue")
    for step in STEPS:
        if not is_served(step):
            continue
        before = await traces(stubs)
        await step.run(story)
        (trace,) = await new_traces(stubs, before)
        operation = OPERATIONS[f"imsd.v1.{step.call}"]
        assert (trace.name, trace.method) == (operation.trace, f"imsd.v1.{step.call}")
        assert (outcome(trace), trace.reason, trace.message) == ("SUCCEEDED", "", "")
        assert (trace.project_id, trace.resource_type) == (step.project, operation.resource)
        assert (trace.service, trace.caller_kind, trace.caller_id) == ("IMS", "local_administrator", "local")
        assert trace.resource_id == step.resource(story), step.call
        assert trace.action in operation.actions
        assert len(trace.call_id) == 12
        assert step.details.items() <= dict(trace.details).items(), step.call
        answer = story.answers[step.name]
        is_job = type(answer).__name__ == "Job" and step.name != "CancelJob"
        assert trace.job_id == (answer.id if is_job else "")
    assert await intact(stubs) == []


async def test_each_call_that_is_refused_leaves_one_trace_that_says_why(channel: Any) -> None:
    stubs = Stubs(channel)
    token = await make_user(stubs, "reader", {"blue": ("IMS ReadOnlyAccess",)})
    wrong = []
    for metadata, caller in (((), "local"), (token, "reader")):
        for method in MUTATIONS:
            before = await traces(stubs)
            reason = await reason_of_call(channel, method, harmless(method), metadata)
            found = await new_traces(stubs, before)
            if len(found) != 1:
                wrong.append(f"{method} left {len(found)} traces")
                continue
            (trace,) = found
            expected = "DENIED" if reason == "PERMISSION_DENIED" else "FAILED" if reason else "SUCCEEDED"
            said = (
                trace.name,
                trace.method,
                outcome(trace),
                trace.reason,
                trace.caller_id,
                bool(trace.message),
            )
            if said != (OPERATIONS[method].trace, method, expected, reason, caller, bool(reason)):
                wrong.append(f"{method}: {said}")
            if (trace.token_id == "") is not (caller == "local"):
                wrong.append(f"{method}: token {trace.token_id!r}")
    assert wrong == []
    assert await intact(stubs) == []


async def test_a_call_that_reads_leaves_no_trace(channel: Any) -> None:
    stubs = Stubs(channel)
    token = await make_user(stubs, "nobody", {})
    before = await traces(stubs)
    for metadata in ((), token):
        for method in set(METHODS) - set(MUTATIONS):
            await reason_of_call(channel, method, harmless(method), metadata)
    assert await new_traces(stubs, before) == []


async def test_a_caller_that_is_not_known_leaves_no_trace(channel: Any) -> None:
    stubs = Stubs(channel)
    before = await traces(stubs)
    for method in MUTATIONS:
        wrong = (("authorization", "Bearer imsd_wrong"),)
        assert await reason_of_call(channel, method, harmless(method), wrong) == "UNAUTHENTICATED"
    assert await new_traces(stubs, before) == []


async def test_what_is_refused_where_the_caller_has_no_role_is_traced_for_the_service(channel: Any) -> None:
    stubs = Stubs(channel)
    await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id="yellow"))
    stranger = await make_user(stubs, "stranger", {"blue": ("IMS ReadOnlyAccess",)})
    roleless = await make_user(stubs, "roleless", {})
    before = await traces(stubs)
    creation = identity_pb2.CreateUserRequest(id="eve")
    calls: list[tuple[str, Any, Any]] = [("imsd.v1.IdentityService/CreateUser", creation, roleless)]
    for project_id in ("yellow", "invented", "x" * 65, "a b", ""):
        request = image_pb2.DeleteImageRequest(project_id=project_id, image_id="x\n" * 4000)
        calls.append(("imsd.v1.ImageService/DeleteImage", request, roleless))
        if project_id in ("yellow", "invented"):
            calls.append(("imsd.v1.ImageService/DeleteImage", request, stranger))
    for method, request, metadata in calls:
        assert await reason_of_call(channel, method, request, metadata) != ""
    found = await new_traces(stubs, before)
    assert len(found) == len(calls)
    assert {trace.project_id for trace in found} == {"@service"}
    tried = [(trace.caller_id, trace.details["project_id"]) for trace in found if trace.details]
    assert tried == [(who, where) for where in ("yellow", "invented") for who in ("roleless", "stranger")]
    for project_id in ("yellow", "invented"):
        listed = trace_pb2.ListTracesRequest(project_id=project_id)
        assert list((await stubs.traces.ListTraces(listed)).traces) == []


async def test_what_is_refused_of_a_caller_with_a_role_is_traced_for_the_service(channel: Any) -> None:
    stubs = Stubs(channel)
    visitor = await make_user(stubs, "visitor", {"blue": ("IMS ReadOnlyAccess",)})
    before = await traces(stubs)
    request = identity_pb2.CreateUserRequest(id="e\nve")
    assert await reason_of_call(channel, "imsd.v1.IdentityService/CreateUser", request, visitor) != ""
    (trace,) = await new_traces(stubs, before)
    assert (trace.caller_id, trace.project_id, outcome(trace)) == ("visitor", "@service", "DENIED")
    assert trace.resource_id == "e\ufffdve"


async def test_a_user_of_all_projects_makes_no_chain_in_one_that_there_is_not(channel: Any) -> None:
    stubs = Stubs(channel)
    token = await make_user(stubs, "everywhere", {"*": ("IMS ReadOnlyAccess",)})
    request = image_pb2.DeleteImageRequest(project_id="invented", image_id="x\n" * 4000)
    assert await reason_of_call(channel, "imsd.v1.ImageService/DeleteImage", request, token) != ""
    listed = trace_pb2.ListTracesRequest(project_id="invented")
    assert list((await stubs.traces.ListTraces(listed)).traces) == []
    newest = (await stubs.traces.ListTraces(SERVICE)).traces[0]
    assert (newest.caller_id, newest.details["project_id"]) == ("everywhere", "invented")
    assert newest.resource_id == ("x\ufffd" * 127) + "…"


async def test_parallel_calls_make_one_chain_without_a_gap(channel: Any) -> None:
    stubs = Stubs(channel)
    image = await wire.import_disk(stubs, DISK, project_id="blue", name="busy")
    before = await traces(stubs)

    async def tag(number: int) -> None:
        request = tag_pb2.SetImageTagsRequest(
            project_id="blue", image_id=image.id, tags=[tag_pb2.Tag(key=f"k{number % 5}", value=str(number))]
        )
        await stubs.tags.SetImageTags(request)

    await asyncio.gather(*[tag(number) for number in range(200)])
    found = await new_traces(stubs, before)
    assert sorted(trace.details["tags"].partition("=")[2] for trace in found) == sorted(map(str, range(200)))
    assert await intact(stubs) == []
    of_blue = [trace.sequence for trace in (await traces(stubs)).values() if trace.project_id == "blue"]
    assert of_blue == list(range(1, len(of_blue) + 1))


async def test_a_call_that_its_client_leaves_is_traced(channel: Any) -> None:
    stubs = Stubs(channel)
    upload = await wire.open_upload(stubs, project_id="blue", size_bytes=len(DISK))
    before = await traces(stubs)
    never = asyncio.Event()

    async def slowly() -> AsyncIterator[Any]:
        yield wire.header(upload)
        await never.wait()

    call = stubs.uploads.WriteUpload(slowly())
    assert (await call.read()).committed_offset == 0
    call.cancel()
    while not (found := await new_traces(stubs, before)):
        await asyncio.sleep(0.02)
    (trace,) = found
    assert (trace.name, trace.resource_id) == ("writeUpload", upload.id)
    assert (outcome(trace), trace.reason) in (("FAILED", "CANCELLED"), ("SUCCEEDED", ""))
    assert trace.details["committed_offset"] == "0"


async def test_a_stream_without_its_first_message_is_traced_for_the_service(channel: Any) -> None:
    stubs = Stubs(channel)
    before = await traces(stubs)
    with pytest.raises(grpc.aio.AioRpcError):
        await wire.write(stubs, [wire.Step(flush=wire.Step.Flush())])
    (trace,) = await new_traces(stubs, before)
    assert (trace.project_id, trace.name, outcome(trace)) == ("@service", "writeUpload", "FAILED")


async def test_traces_hold_no_secret(channel: Any, shared: DaemonProcess) -> None:
    stubs = Stubs(channel)
    token = await stubs.identity.CreateToken(
        identity_pb2.CreateTokenRequest(user_id=(await user(stubs, "holder")), name="t")
    )
    hidden = "https://ann:s3cret-user@images.test/a.img?signature=s3cret-query#s3cret-fragment"
    create = image_pb2.CreateImageRequest(
        project_id="blue", name="x", url=hidden, properties={"password": "s3cret-property"}
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await stubs.images.CreateImage(create)
    with pytest.raises(grpc.aio.AioRpcError):
        await wire.write(
            stubs,
            [wire.Step(header=wire.Step.Header(project_id="blue", upload_id="x", file_token=b"s3cret-file"))],
        )
    exported = "".join(str(trace) for trace in (await traces(stubs)).values())
    stored = b"".join(path.read_bytes() for path in shared.state_dir.glob("imsd.sqlite3*"))
    assert "images.test/a.img" in exported
    for secret in (token.secret, "s3cret"):
        assert secret not in exported
        assert secret.encode() not in stored


async def user(stubs: Stubs, user_id: str) -> str:
    await stubs.identity.CreateUser(identity_pb2.CreateUserRequest(id=user_id))
    return user_id


async def test_a_project_reads_its_own_traces_and_an_operator_those_of_the_service(channel: Any) -> None:
    stubs = Stubs(channel)
    reader = await make_user(stubs, "auditor", {"blue": ("IMS FullAccess",)})
    for request in (trace_pb2.ListTracesRequest(project_id="blue"), trace_pb2.ListTracesRequest()):
        assert (await stubs.traces.ListTraces(request, metadata=reader)).traces[0].project_id == "blue"
    for project_id in ("@service", "green"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.traces.ListTraces(trace_pb2.ListTracesRequest(project_id=project_id), metadata=reader)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    trace = (await stubs.traces.ListTraces(SERVICE)).traces[0]
    got = await stubs.traces.GetTrace(trace_pb2.GetTraceRequest(project_id="@service", trace_id=trace.id))
    assert got == trace


async def test_other_calls_know_no_project_of_the_service(channel: Any) -> None:
    request = image_pb2.ListImagesRequest(project_id="@service")
    assert await reason_of_call(channel, "imsd.v1.ImageService/ListImages", request) == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "wanted",
    [
        {"names": ["x"] * 33},
        {"names": ["x" * 65]},
        {"outcomes": [99]},
        {"outcomes": [0]},
        {"outcomes": [1] * 5},
        {"caller_id": "x" * 256},
        {"caller_id": "\0"},
        {"from_time": {"seconds": 1 << 60}},
        {"from_time": {"seconds": 9}, "to_time": {"seconds": 8}},
    ],
)
async def test_a_wrong_filter_is_refused(channel: Any, wanted: dict[str, Any]) -> None:
    request = trace_pb2.ListTracesRequest(project_id="blue", filter=trace_pb2.TraceFilter(**wanted))
    assert await reason_of_call(channel, "imsd.v1.TraceService/ListTraces", request) == "INVALID_REQUEST"
    exported = trace_pb2.ExportTracesRequest(project_id="blue", filter=trace_pb2.TraceFilter(**wanted))
    assert await reason_of_call(channel, "imsd.v1.TraceService/ExportTraces", exported) == "INVALID_REQUEST"


async def test_large_traces_come_in_pages_and_pieces_that_a_client_takes(channel: Any) -> None:
    stubs = Stubs(channel)
    request = image_pb2.CreateImageRequest(project_id="blue", name="x", local_path="/" + "\u6d4b" * 4095)
    for _ in range(300):
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.images.CreateImage(request)
    page = await stubs.traces.ListTraces(trace_pb2.ListTracesRequest(project_id="blue", page_size=1000))
    assert page.next_page_token
    assert page.ByteSize() < 3 << 20
    async for piece in stubs.traces.ExportTraces(trace_pb2.ExportTracesRequest(project_id="blue")):
        assert piece.ByteSize() < 2 << 20
    assert json.dumps([dict(trace.details) for trace in page.traces])
