"""All that attachments need, put together."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from imsd.core.runtime import Runtime
from imsd.core.state_directory import host_id
from imsd.core.sweeper import Sweeper

from .attachments import Attachments, Host
from .block_server import BlockServer
from .keeper import AttachmentKeeper


@dataclass(frozen=True, slots=True)
class AttachmentServices:
    attachments: Attachments
    keeper: AttachmentKeeper


def attachment_services(
    runtime: Runtime, sweeper: Sweeper, server: BlockServer, state_dir: Path
) -> AttachmentServices:
    """``state_dir``: its id is that of the machine. Blocks, once, when the daemon starts."""
    host = Host(host_id(state_dir), socket.gethostname())
    return AttachmentServices(
        Attachments(runtime, sweeper, server, host), AttachmentKeeper(runtime, sweeper, server, host)
    )
