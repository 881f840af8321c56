"""The rooms, and what each may import of imsd. A new entry in this table needs a reviewer's yes."""

from __future__ import annotations

import ast

import pytest

from tests.contract.source_tree import ROOT, Module, modules

# A room is the longest prefix that fits a module's name; a room may always import itself.
LAYERS: dict[str, tuple[str, ...]] = {
    "imsd.contract": (),
    "imsd.promises": ("imsd.contract",),
    "imsd.formats": ("imsd.contract",),
    "imsd.guest": ("imsd.contract", "imsd.formats"),
    "imsd.chunks": ("imsd.contract", "imsd.formats"),
    "imsd.nbd": ("imsd.contract", "imsd.formats", "imsd.chunks"),
    "imsd.nbd.__main__": ("imsd.allocator", "imsd.block_server"),
    "imsd.metadata": ("imsd.contract", "imsd.chunks.index", "imsd.trace_chain"),
    "imsd.wire": (),
    "imsd.trace_chain": (),
    "imsd.trace_check": ("imsd.trace_chain",),
    "imsd.guest_messages": ("imsd.v1", "imsd.guest"),
    "imsd.core": (
        "imsd.contract",
        "imsd.promises",
        "imsd.formats",
        "imsd.guest",
        "imsd.chunks",
        "imsd.metadata",
        "imsd.trace_chain",
        "imsd.trace_check",
    ),
    "imsd.grpc_server": (
        "imsd.v1",
        "imsd.wire",
        "imsd.contract",
        "imsd.formats",
        "imsd.guest",
        "imsd.guest_messages",
        "imsd.chunks",
        "imsd.metadata",
        "imsd.trace_chain",
        "imsd.trace_check",
        "imsd.core",
    ),
    "imsd.testing": ("imsd.contract", "imsd.promises"),
    "imsd.testing.memory_index": ("imsd.contract", "imsd.chunks.index"),
    # The daemon's shell: what the process is told, how it logs, how it allocates.
    "imsd.config": (
        "imsd.config_access",
        "imsd.config_block_server",
        "imsd.config_limits",
        "imsd.config_values",
    ),
    "imsd.config_block_server": ("imsd.config_values",),
    "imsd.config_access": ("imsd.config_values",),
    "imsd.config_values": (),
    "imsd.network_access": ("imsd.config", "imsd.core", "imsd.grpc_server"),
    "imsd.block_server_start": (
        "imsd.contract",
        "imsd.config",
        "imsd.config_block_server",
        "imsd.core",
    ),
    "imsd.opened_sources": ("imsd.config", "imsd.core", "imsd.chunks"),
    "imsd.own_places": ("imsd.contract", "imsd.config", "imsd.core"),
    # Numbers and where they come from; these two modules of the core import nothing.
    "imsd.config_limits": ("imsd.core.service_limits", "imsd.core.quota_rules"),
    "imsd.config_loading": ("imsd.contract", "imsd.config"),
    "imsd.logging_setup": (),
    "imsd.allocator": (),
    "imsd.core_dumps": (),
    "imsd.service_notify": (),
    "imsd.__main__": ("imsd.allocator", "imsd.command_line"),
    "imsd.command_line": (
        "imsd.contract",
        "imsd.config_loading",
        "imsd.core.plugin_registry",
        "imsd.core.policies",
        "imsd.core.bucket_sections",
        "imsd.core.keys",
        "imsd.core.store_sections",
        "imsd.core_dumps",
        "imsd.logging_setup",
        "imsd.own_places",
        "imsd.daemon",
    ),
    "imsd.block_server": (
        "imsd.allocator",
        "imsd.core_dumps",
        "imsd.chunks.decode_pool",
        "imsd.config",
        "imsd.config_block_server",
        "imsd.config_loading",
        "imsd.contract",
        "imsd.core.opened_stores",
        "imsd.core.plugin_registry",
        "imsd.core.store_sections",
        "imsd.logging_setup",
        "imsd.nbd",
        "imsd.service_notify",
    ),
    "imsd.daemon": (
        "imsd.allocator",
        "imsd.contract",
        "imsd.chunks",
        "imsd.config",
        "imsd.core",
        "imsd.formats",
        "imsd.grpc_server",
        "imsd.guest",
        "imsd.metadata",
        "imsd.block_server_start",
        "imsd.network_access",
        "imsd.opened_sources",
        "imsd.own_places",
        "imsd.service_notify",
        "imsd.trace_chain",
    ),
    "imsd": (),
    "imsd_kms_local": ("imsd.contract",),
    "imsd_kms_transit": ("imsd.contract",),
    "imsd_localfs": ("imsd.contract",),
    "imsd_s3": ("imsd.contract",),
    "ims_client": ("imsd.v1", "imsd.wire"),
    "imsctl": (
        "imsd.v1",
        "imsd.contract",
        "imsd.formats",
        "imsd.guest",
        "imsd.guest_messages",
        "imsd.chunks",
        "imsd.trace_chain",
        "imsd.trace_check",
        "ims_client",
    ),
}

OURS = ("imsd", "ims_client", "imsctl")


def room_of(name: str) -> str | None:
    """The room of a module, None for one that is not ours."""
    fitting = [room for room in LAYERS if is_in(name, room)]
    return max(fitting, key=len, default=None)


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def is_ours(name: str) -> bool:
    top = name.split(".")[0]
    return top in OURS or top.startswith("imsd_")


def violations(module: Module) -> list[str]:
    room = room_of(module.name)
    if room is None:
        return [f"{module.place}: no layer for {module.name}: enter it in the table"]
    found = []
    for imported, line in module.imports():
        if not is_ours(imported) or imported in ("imsd", "imsd.__version__"):
            continue
        if is_in(imported, room) and room != "imsd":
            continue
        if not any(is_in(imported, allowed) for allowed in LAYERS[room]):
            found.append(f"{module.place}:{line}: {room} must not import {imported}")
    return found


def test_imports_run_one_way() -> None:
    assert [each for module in modules("imsd", "plugins", "clients") for each in violations(module)] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("imsd.contract.errors", "import imsd.core.jobs"),
        ("imsd.formats.raw", "from imsd.chunks import index"),
        ("imsd.metadata.jobs", "from imsd.chunks.ingest import Ingest"),
        ("imsd.metadata.jobs", "from imsd.chunks import layout"),
        ("imsd.core.jobs", "def late():\n    from imsd.v1 import job_pb2"),
        ("imsd.core.jobs", "from imsd_localfs.store import LocalStore"),
        ("imsd.grpc_server.server", "from imsd.config import Config"),
        ("imsd_localfs.store", "from imsd.core import store_pool"),
        ("imsd_unknown.store", "from imsd.contract import errors"),
        ("imsd.testing.memory_store", "from imsd.chunks.index import ChunkIndex"),
        ("ims_client.client", "from imsd.contract import errors"),
    ],
)
def test_a_wrong_import_is_seen(name: str, text: str) -> None:
    module = Module(name, ROOT / f"{name.replace('.', '/')}.py", text, ast.parse(text))
    assert len(violations(module)) == 1


def test_relative_imports_are_seen_by_their_full_name() -> None:
    text = "from . import jobs\nfrom .workflows.create_image import CreateImage"
    module = Module("imsd.core.images", ROOT / "imsd/core/images.py", text, ast.parse(text))
    names = [name for name, _ in module.imports()]
    assert names == ["imsd.core.jobs", "imsd.core.workflows.create_image.CreateImage"]
