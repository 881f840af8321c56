"""Who may do what, on the wire: every call with tokens of users of many roles; an operator's policies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from imsd.v1 import identity_pb2, image_pb2, member_pb2, policy_pb2
from tests.contract.test_actions import METHODS
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import patterned_disk
from tests.end_to_end.wire import ended, import_disk
from tests.unit.policies import role_matrix as matrix

NIL = "00000000-0000-4000-8000-000000000000"
PROJECTS = ("blue", "green")

# Only users have tokens; the local administrator needs none.
CASES = [case for case in matrix.CASES if case.kind.value == "api_token" and "nobody knows" not in case.name]

LIVE = """
@id("live-stays")
forbid (
  principal,
  action in [Action::"ims:images:delete", Action::"ims:images:share"],
  resource is Image
)
when { resource.hasTag("stage") && resource.getTag("stage") == "live" };
"""

SECRET = """
@id("secret")
forbid (principal is User, action == Action::"ims:images:get", resource is Image)
when { resource.hasTag("stage") && resource.getTag("stage") == "secret" };
"""

Metadata = tuple[tuple[str, str], ...]


def bearer(secret: str) -> Metadata:
    return (("authorization", f"Bearer {secret}"),)


async def make_user(stubs: Stubs, user_id: str, roles: dict[str, tuple[str, ...]]) -> Metadata:
    """A user with roles; returns what its calls carry."""
    await stubs.identity.CreateUser(identity_pb2.CreateUserRequest(id=user_id))
    for project_id, names in roles.items():
        for name in names:
            grant = identity_pb2.GrantRoleRequest(
                principal_kind=identity_pb2.PRINCIPAL_KIND_USER,
                principal_id=user_id,
                project_id=project_id,
                role=name,
            )
            await stubs.identity.GrantRole(grant)
    token = await stubs.identity.CreateToken(identity_pb2.CreateTokenRequest(user_id=user_id, name="test"))
    return bearer(token.secret)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None, error
    assert status.details[0].Unpack(info)
    return info


async def reason_of_call(channel: Any, method: str, request: Any, metadata: Metadata = ()) -> str:
    """The reason why a call was refused; empty when it was not."""
    descriptor = METHODS[method]
    kinds = {False: "unary", True: "stream"}
    kind = f"{kinds[descriptor.client_streaming]}_{kinds[descriptor.server_streaming]}"
    if descriptor.client_streaming:
        request = iter([descriptor.input_type._concrete_class(header=request)])
    call = getattr(channel, kind)(
        f"/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=descriptor.output_type._concrete_class.FromString,
    )(request, metadata=metadata, timeout=60)
    try:
        if descriptor.server_streaming:
            async for _ in call:
                break
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return "UNIMPLEMENTED"
        return str(info_of(error).reason)
    return ""


def harmless(method: str) -> Any:
    """A request in project "blue" that changes nothing, whoever may make it: what it names is not there."""
    descriptor = METHODS[method].input_type
    if METHODS[method].client_streaming:
        descriptor = descriptor.fields_by_name["header"].message_type
    request = descriptor._concrete_class()
    ids = dict.fromkeys(("image_id", "upload_id", "job_id", "token_id", "trace_id", "attachment_id"), NIL)
    for field, value in {"project_id": "blue", **ids}.items():
        if field in descriptor.fields_by_name:
            setattr(request, field, value)
    return request


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path_factory.mktemp("imsd"))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture
async def channel(shared: DaemonProcess) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(shared.address) as channel:
        stubs = Stubs(channel)
        listed = await stubs.identity.ListProjects(identity_pb2.ListProjectsRequest())
        for project_id in {*PROJECTS} - {project.id for project in listed.projects}:
            await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id=project_id))
        yield channel


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
async def test_a_token_may_what_the_roles_of_its_user_allow(channel: Any, number: int) -> None:
    case = CASES[number]
    token = await make_user(Stubs(channel), f"user{number}", dict(case.roles))
    wrong = []
    for method in METHODS:
        reason = await reason_of_call(channel, method, harmless(method), token)
        if reason != "UNIMPLEMENTED" and (reason != "PERMISSION_DENIED") is not case.allows(method):
            wrong.append(f"{method}: {reason or 'done'}")
    assert wrong == []


async def test_the_local_administrator_may_make_every_call(channel: Any) -> None:
    for method in METHODS:
        assert await reason_of_call(channel, method, harmless(method)) != "PERMISSION_DENIED", method


async def test_a_denial_says_what_is_missing_and_how_to_learn_more(channel: Any) -> None:
    stubs = Stubs(channel)
    token = await make_user(stubs, "denied", {"blue": ("IMS Administrator",)})
    request = image_pb2.DeleteImageRequest(project_id="blue", image_id=NIL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.images.DeleteImage(request, metadata=token)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "denied may not do ims:images:delete in project blue"
    info = info_of(caught.value)
    assert info.metadata["img_code"] == "IMG.0026"
    assert "your role IMS Administrator does not count without Tenant Administrator" in info.metadata["hint"]
    assert "`imsctl policy check me ims:images:delete --project blue` explains" in info.metadata["hint"]


async def test_a_role_that_is_taken_away_counts_no_more(channel: Any) -> None:
    stubs = Stubs(channel)
    token = await make_user(stubs, "fired", {"blue": ("IMS FullAccess",)})
    method, request = "imsd.v1.ImageService/ListImages", image_pb2.ListImagesRequest(project_id="blue")
    assert await reason_of_call(channel, method, request, token) == ""
    grant = identity_pb2.RevokeRoleRequest(
        principal_kind=identity_pb2.PRINCIPAL_KIND_USER,
        principal_id="fired",
        project_id="blue",
        role="IMS FullAccess",
    )
    await stubs.identity.RevokeRole(grant)
    assert (
        await reason_of_call(channel, "imsd.v1.ImageService/ListImages", request, token)
        == "PERMISSION_DENIED"
    )


async def test_another_projects_image_is_not_there_whoever_asks(channel: Any) -> None:
    stubs = Stubs(channel)
    theirs = await import_disk(stubs, patterned_disk(1 << 20), project_id="green")
    token = await make_user(stubs, "neighbour", {"blue": ("IMS FullAccess",)})
    for method in METHODS:
        request = harmless(method)
        if "image_id" not in request.DESCRIPTOR.fields_by_name or not method.startswith(
            "imsd.v1.ImageService"
        ):
            continue
        missing = await reason_of_call(channel, method, request, token)
        request.image_id = theirs.id
        assert await reason_of_call(channel, method, request, token) == missing, method


async def test_one_asks_for_oneself_only(channel: Any) -> None:
    stubs = Stubs(channel)
    token = await make_user(stubs, "curious", {"blue": ("IMS FullAccess",)})
    asked = policy_pb2.CheckPolicyRequest(action="ims:images:delete")
    said = await stubs.policies.CheckPolicy(asked, metadata=token)
    assert (said.is_allowed, said.project_id, list(said.policies)) == (True, "blue", ["full-access"])
    asked.user_id = "curious"
    assert await stubs.policies.CheckPolicy(asked, metadata=token) == said
    asked.user_id = "denied"
    method = "imsd.v1.PolicyService/CheckPolicy"
    assert await reason_of_call(channel, method, asked, token) == "PERMISSION_DENIED"


@pytest.fixture
async def ruled(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> AsyncIterator[tuple[DaemonProcess, Stubs]]:
    """A daemon with a policy of an operator's own."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "live.cedar").write_text(LIVE + SECRET)
    daemon = start_daemon(policy_dir=tmp_path / "policies")
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield daemon, Stubs(channel)


async def test_an_operators_policy_keeps_live_images(ruled: tuple[DaemonProcess, Stubs]) -> None:
    daemon, stubs = ruled
    for project_id in PROJECTS:
        await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id=project_id))
    token = await make_user(stubs, "alice", {"blue": ("IMS FullAccess",)})
    live = await import_disk(
        stubs, patterned_disk(1 << 20), project_id="blue", name="web", tags={"stage": "live"}
    )
    test = await import_disk(stubs, patterned_disk(2 << 20), project_id="blue", name="lab")

    request = image_pb2.DeleteImageRequest(project_id="blue", image_id=live.id)
    for metadata in (token, ()):  # whoever asks
        with pytest.raises(
            grpc.aio.AioRpcError, match=f"policy live-stays forbids ims:images:delete on image {live.id}"
        ):
            await stubs.images.DeleteImage(request, metadata=metadata)
    share = member_pb2.AddMembersRequest(
        project_id="blue", image_ids=[test.id, live.id], member_project_ids=["green"]
    )
    with pytest.raises(grpc.aio.AioRpcError, match=live.id):
        await stubs.members.AddMembers(share, metadata=token)
    del share.image_ids[1]
    await ended(stubs, await stubs.members.AddMembers(share, metadata=token))

    question = ("policy", "check", "alice", "ims:images:delete")
    checked = daemon.imsctl(*question, "web", "--project", "blue", check=False)
    assert checked.returncode == 1
    assert "forbidden by policy live-stays" in checked.stdout
    said = json.loads(daemon.imsctl(*question, test.id, "-o", "json").stdout)
    assert said == {
        "allowed": True,
        "project_id": "blue",
        "policies": ["full-access"],
        "roles": ["IMS FullAccess"],
        "ignored_roles": [],
        "explanation": f"alice may do ims:images:delete on image {test.id} in project blue, "
        "permitted by policy full-access",
        "rules": [],
    }
    await stubs.images.DeleteImage(
        image_pb2.DeleteImageRequest(project_id="blue", image_id=test.id), metadata=token
    )


async def test_an_image_that_may_not_be_seen_is_not_found_by_its_name_either(
    ruled: tuple[DaemonProcess, Stubs],
) -> None:
    _, stubs = ruled
    await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id="blue"))
    token = await make_user(stubs, "alice", {"blue": ("IMS FullAccess",)})
    secret = await import_disk(
        stubs, patterned_disk(1 << 20), project_id="blue", name="hidden", tags={"stage": "secret"}
    )
    change = image_pb2.UpdateImageRequest(project_id="blue", image_id=secret.id)
    change.image.family = "hush"
    change.update_mask.paths.append("family")
    await stubs.images.UpdateImage(change)

    get, resolve, family = stubs.images.GetImage, stubs.images.ResolveImage, stubs.images.ResolveFamily
    for call, request in (
        (get, image_pb2.GetImageRequest(project_id="blue", image_id=secret.id)),
        (resolve, image_pb2.ResolveImageRequest(project_id="blue", name_or_id=secret.id)),
        (resolve, image_pb2.ResolveImageRequest(project_id="blue", name_or_id=secret.id[:8])),
        (resolve, image_pb2.ResolveImageRequest(project_id="blue", name_or_id="hidden")),
        (family, image_pb2.ResolveFamilyRequest(project_id="blue", family="hush")),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="policy secret forbids ims:images:get"):
            await call(request, metadata=token)
        await call(request)  # the administrator may


async def test_policies_are_loaded_anew_on_sighup_unless_they_are_wrong(
    ruled: tuple[DaemonProcess, Stubs],
) -> None:
    daemon, stubs = ruled
    rules = daemon.folder / "policies" / "live.cedar"
    list_images = image_pb2.ListImagesRequest()
    await stubs.images.ListImages(list_images)

    async def reload(text: str, logged: str) -> None:
        rules.write_text(text)
        os.kill(daemon.pid, signal.SIGHUP)
        deadline = time.monotonic() + 30
        while logged not in daemon.log.read_text():
            assert time.monotonic() < deadline, daemon.log.read_text()
            await asyncio.sleep(0.05)

    closed = '@id("closed") forbid (principal, action == Action::"ims:images:list", resource);'
    await reload(closed, "policies are loaded")
    with pytest.raises(grpc.aio.AioRpcError, match="policy closed forbids ims:images:list"):
        await stubs.images.ListImages(list_images)
    await reload("this is no policy", "the policies stay as they were")
    assert "live.cedar, line 1: this is no policy" in daemon.log.read_text()
    with pytest.raises(grpc.aio.AioRpcError, match="policy closed forbids ims:images:list"):
        await stubs.images.ListImages(list_images)


def test_imsctl_shows_roles_and_actions(shared: DaemonProcess) -> None:
    roles = {role["name"]: role for role in shared.imsctl_json("policy", "roles")}
    assert roles["Server Administrator"]["depends_on"] == ["IMS Administrator"]
    assert roles["IMS FullAccess"]["source"] == "Table 8-2"
    assert "ims:images:delete" in roles["IMS FullAccess"]["actions"]
    actions = {action["name"]: action for action in shared.imsctl_json("policy", "actions")}
    assert actions["ims:images:get"]["mutation"] is False
    assert "imsd.v1.ImageService/GetImage" in actions["ims:images:get"]["methods"]
    assert "Tenant Administrator" in shared.imsctl("policy", "roles").stdout
    assert "ListImages" in shared.imsctl("policy", "actions").stdout


def test_imsctl_says_what_is_wrong_with_a_question(shared: DaemonProcess) -> None:
    failed = shared.imsctl("policy", "check", "me", "ims:images:delet", check=False)
    assert failed.returncode == 1
    assert "there is no action 'ims:images:delet'" in failed.stderr
    assert "did you mean ims:images:delete?" in failed.stderr
    assert (
        "there is no user 'nobody'"
        in shared.imsctl("policy", "check", "nobody", "ims:images:get", check=False).stderr
    )
    assert "allowed" in shared.imsctl("policy", "check", "me", "ims:images:get").stdout
