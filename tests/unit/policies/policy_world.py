"""Policies as an operator writes them, and questions to ask of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imsd.core.caller import Caller, CallerKind
from imsd.core.policies.decisions import Decision, Policies
from imsd.core.policies.entities import Question, Uid, principal_of, project_uid
from imsd.core.policies.loading import load_policies
from imsd.metadata.records import ImageRecord, ImageStatus

IMAGE_ID = "11111111-2222-4333-8444-555555555555"
LOCAL = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local", peer="unix:")


def written(folder: Path, text: str, name: str = "50-own.cedar") -> Path:
    """A directory of policies with one file in it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def policies(folder: Path, text: str) -> Policies:
    return Policies(load_policies(written(folder, text)))


def user(user_id: str = "alice", *roles: str, project_id: str = "blue", **fields: Any) -> Caller:
    granted = {project_id: frozenset(roles)} if roles else {}
    return replace(
        Caller(kind=CallerKind.API_TOKEN, id=user_id, roles=granted, peer="ipv4:192.0.2.7:5"), **fields
    )


def image(**fields: Any) -> ImageRecord:
    now = datetime.now(UTC)
    record = ImageRecord(
        id=IMAGE_ID,
        project_id="blue",
        region="local",
        name="web",
        status=ImageStatus.ACTIVE,
        store="main",
        job_id="",
        created_at=now,
        updated_at=now,
    )
    return replace(record, **fields)


def ask(
    rules: Policies,
    caller: Caller,
    action: str,
    project_id: str = "blue",
    about: ImageRecord | Uid | None = None,
) -> Decision:
    record = about if isinstance(about, ImageRecord) else None
    resource = Uid("Image", record.id) if record else about
    question = Question(
        principal=principal_of(caller, project_id, rules.groups),
        action=action,
        project_id=project_id,
        resource=resource if isinstance(resource, Uid) else project_uid(project_id),
    )
    return rules.decide(question, record)
