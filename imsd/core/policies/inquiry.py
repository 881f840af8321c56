"""What a policy looks at: what must be known before it can be asked, and how far an answer holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from cedarpy import pst

# Decided once for a project, whatever comes of it.
IMAGE_LIST: Final = "ims:images:list"
# The groups of actions of `imsd.cedarschema`: each has the list of images in it, and actions on one image.
GROUPS: Final = frozenset({"ims:query", "ims:project", "ims:operate"})

_GROUP: Final = pst.EntityType("Group")
_IMAGE: Final = pst.EntityType("Image")
_RESOURCE: Final = pst.Var("resource")


def actions_that_need_an_image(policies: Iterable[pst.Template]) -> frozenset[str]:
    """Actions, and groups of actions, of which an answer may depend on the image that a call is about."""
    return frozenset(
        name
        for policy in policies
        if reads_the_resource(policy)
        for name in _actions(policy)
        if name in GROUPS or name.startswith("ims:images:")
    )


def reads_the_resource(policy: pst.Template) -> bool:
    """Whether its answer may depend on what a call is about."""
    return not isinstance(policy.resource, pst.ScopeAny) or any(
        node == _RESOURCE for node in _nodes(policy.clauses)
    )


def reads_an_image(policy: pst.Template) -> bool:
    """Whether it speaks of images: by their type, by one's id, or by what one is like."""
    return any(_speaks_of_images(node) for node in (policy.resource, *_nodes(policy.clauses)))


def reaches_a_list(policy: pst.Template) -> bool:
    """Whether the action of a list of images is among its actions."""
    return not GROUPS.isdisjoint(_actions(policy)) or IMAGE_LIST in _actions(policy)


def named_groups(policies: Iterable[pst.Template]) -> frozenset[str]:
    """Ids of the groups that policies name."""
    uids = (uid for policy in policies for uid in pst.entity_uids(policy))
    return frozenset(uid.id for uid in uids if uid.type == _GROUP)


def _actions(policy: pst.Template) -> frozenset[str]:
    """Names of the actions and groups of actions in its head; all groups of one that names none."""
    if isinstance(policy.action, pst.ScopeAny):
        return GROUPS
    named = policy.action.entities if isinstance(policy.action, pst.ActionIn) else (policy.action.entity,)
    return frozenset(each.id for each in named)


def _speaks_of_images(node: object) -> bool:
    if isinstance(node, pst.ScopeIs | pst.ScopeIsIn | pst.Is) and node.entity_type == _IMAGE:
        return True
    if isinstance(node, pst.GetAttr | pst.HasAttr):
        return node.base == _RESOURCE
    if isinstance(node, pst.BinaryOp) and node.op in ("get_tag", "has_tag"):
        return node.left == _RESOURCE
    return isinstance(node, pst.ScopeEq | pst.ScopeIn | pst.EntityLit) and _is_image(node)


def _is_image(node: pst.ScopeEq | pst.ScopeIn | pst.EntityLit) -> bool:
    return any(uid.type == _IMAGE for uid in pst.entity_uids(node))


def _nodes(root: object) -> Iterator[object]:
    """Every part of an expression; without recursion, whatever its depth."""
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            waiting.extend(node)
        elif isinstance(node, Mapping):
            waiting.extend(node.values())
        elif is_dataclass(node) and not isinstance(node, type):
            yield node
            waiting.extend(getattr(node, field.name) for field in fields(node))
