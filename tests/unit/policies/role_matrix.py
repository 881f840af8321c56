"""Which role may make which call: from Tables 8-1 to 8-3 of the seed, not computed from the policies.

``ROWS``: every call of the contract in one row, named as the tables name it or, where they are silent,
in our own words. ``CASES``: what is granted to a caller, and the rows of which it may make every call in
project "blue".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imsd.core.caller import CallerKind

# Table 8-3, its four operations; "uploading" is named by Table 8-1 only.
CREATING, DELETING, QUERYING = "creating images", "deleting images", "querying images"
UPDATING, UPLOADING = "updating image information", "uploading images"
# What the tables do not name: "all permissions for IMS" includes it, to view data does not.
ALL_ELSE = "all else that a project does with its images"
# Contract §12.1: "encryption needs KMS Administrator".
KEEPING_KEYS = "keeping the keys of a project"
# The operator's: of one project, or of none.
OPERATING, OPERATING_ALL = "operating the service for a project", "operating the service"
# Of both: what an operator must see, and what a project may see of itself.
SEEING_TRACES = "seeing what was done in a project"
OPEN, ONESELF, OTHERS = "open to everybody known", "of oneself", "of another user"

ROWS: Mapping[str, tuple[str, ...]] = {
    CREATING: ("ImageService/CreateImage", "ImageService/CreateQueuedImage"),
    DELETING: ("ImageService/DeleteImage", "ImageService/UndeleteImage"),
    QUERYING: (
        "ImageService/GetImage",
        "ImageService/ResolveImage",
        "ImageService/ResolveFamily",
        "ImageService/ListImages",
        "ImageService/ExportImageList",
        "ImageService/InspectImage",
        "ImageService/GetImageSpace",
        "ImageService/GetProjectSpace",
        "KeyService/GetKey",
        "KeyService/ListKeys",
        "UploadService/GetUpload",
        "UploadService/ListUploads",
        "JobService/GetJob",
        "JobService/ListJobs",
        "JobService/WatchJob",
        "MemberService/ListMembers",
        "MemberService/GetMember",
        "TagService/GetImageTags",
        "TagService/ListTags",
        "TagService/FindImagesByTags",
        "TagService/CountImagesByTags",
        "QuotaService/GetQuotas",
        "QuotaService/ListUsage",
        "AttachmentService/GetAttachment",
        "AttachmentService/ListAttachments",
    ),
    UPDATING: (
        "ImageService/UpdateImage",
        "ImageService/DeactivateImage",
        "ImageService/ReactivateImage",
        "ImageService/DeprecateImage",
        "ImageService/VerifyImage",
        "ImageService/MoveImage",
        "TagService/SetImageTags",
        "TagService/DeleteImageTags",
    ),
    UPLOADING: (
        "ImageService/RegisterImage",
        "UploadService/CreateUpload",
        "UploadService/FindUploadChunks",
        "UploadService/WriteUpload",
        "UploadService/CommitUpload",
        "UploadService/DeleteUpload",
    ),
    ALL_ELSE: (
        "ImageService/CopyImage",
        "ImageService/ExportImage",
        "ImageService/DownloadImage",
        "JobService/CancelJob",
        "MemberService/AddMembers",
        "MemberService/UpdateMembers",
        "MemberService/RemoveMembers",
        "BucketService/ListBuckets",
        "BucketService/ListObjects",
        "BucketService/StatObject",
        "AttachmentService/AttachImage",
        "AttachmentService/DetachImage",
        "BucketService/GetObject",
        "BucketService/PutObject",
        "BucketService/DeleteObject",
    ),
    KEEPING_KEYS: (
        "KeyService/CreateKey",
        "KeyService/UpdateKey",
        "KeyService/EnableKey",
        "KeyService/DisableKey",
        "KeyService/RotateKey",
        "KeyService/ScheduleKeyDeletion",
        "KeyService/CancelKeyDeletion",
    ),
    SEEING_TRACES: (
        "TraceService/ListTraces",
        "TraceService/GetTrace",
        "TraceService/ExportTraces",
        "TraceService/VerifyTraces",
    ),
    OPERATING: (
        "ImageService/PublishImage",
        "ImageService/SetImageVisibility",
        "QuotaService/SetQuota",
    ),
    OPERATING_ALL: (
        "IdentityService/CreateProject",
        "IdentityService/DeleteProject",
        "IdentityService/CreateUser",
        "IdentityService/ListUsers",
        "IdentityService/DeleteUser",
        "IdentityService/CreateGroup",
        "IdentityService/ListGroups",
        "IdentityService/DeleteGroup",
        "IdentityService/SetGroupMembers",
        "IdentityService/GrantRole",
        "IdentityService/RevokeRole",
        "IdentityService/ListRoleGrants",
        "DriverService/ListDrivers",
        "StoreService/ListStores",
        "StoreService/GetStoreUsage",
        "StoreUpkeepService/GetStoreSpace",
        "StoreUpkeepService/ListScrubDamage",
        "StoreUpkeepService/ScrubStore",
        "StoreUpkeepService/RepackStore",
        "StoreService/CheckStore",
    ),
    OPEN: (
        "IdentityService/GetCaller",
        "IdentityService/ListProjects",
        "PolicyService/ListRoles",
        "PolicyService/ListActions",
        "QuotaService/ListLimits",
        "CatalogService/ListFormats",
        "CatalogService/ListOsVersions",
        "CatalogService/GetServiceInfo",
    ),
    ONESELF: (
        "IdentityService/CreateToken",
        "IdentityService/ListTokens",
        "IdentityService/RevokeToken",
        "PolicyService/CheckPolicy",
    ),
}

# The calls of ONESELF are in OTHERS too, when they are about another user.
ROW_OF = {f"imsd.v1.{call}": row for row, calls in ROWS.items() for call in calls}

TENANT, IMS, SERVER = "Tenant Administrator", "IMS Administrator", "Server Administrator"
FULL, READ_ONLY, OPERATOR = "IMS FullAccess", "IMS ReadOnlyAccess", "IMS Operator"
KMS = "KMS Administrator"

KNOWN = frozenset({OPEN, ONESELF})
KEY_QUERIES = frozenset({"imsd.v1.KeyService/GetKey", "imsd.v1.KeyService/ListKeys"})
VIEWER = KNOWN | {QUERYING}
OWNER = VIEWER | {CREATING, DELETING, UPDATING, UPLOADING, ALL_ELSE, SEEING_TRACES}
# An operator sees the images that it publishes, but not all that QUERYING is: see `OPERATOR_QUERIES`.
PROJECT_OPERATOR = KNOWN | {OPERATING, SEEING_TRACES}
SERVICE_OPERATOR = PROJECT_OPERATOR | {OPERATING_ALL, OTHERS}
EVERYTHING = frozenset({*ROWS, OTHERS})

# Of the queries, what an operator needs: to find and see an image, quotas and usage.
OPERATOR_QUERIES = frozenset(
    {
        "imsd.v1.ImageService/GetImage",
        "imsd.v1.ImageService/ResolveImage",
        "imsd.v1.ImageService/ResolveFamily",
        "imsd.v1.ImageService/ListImages",
        "imsd.v1.ImageService/ExportImageList",
        "imsd.v1.ImageService/InspectImage",
        "imsd.v1.ImageService/GetImageSpace",
        "imsd.v1.ImageService/GetProjectSpace",
        "imsd.v1.UploadService/GetUpload",
        "imsd.v1.UploadService/ListUploads",
        "imsd.v1.JobService/GetJob",
        "imsd.v1.JobService/ListJobs",
        "imsd.v1.JobService/WatchJob",
        "imsd.v1.JobService/CancelJob",
        "imsd.v1.MemberService/ListMembers",
        "imsd.v1.MemberService/GetMember",
        "imsd.v1.TagService/GetImageTags",
        "imsd.v1.TagService/ListTags",
        "imsd.v1.TagService/FindImagesByTags",
        "imsd.v1.TagService/CountImagesByTags",
        "imsd.v1.QuotaService/GetQuotas",
        "imsd.v1.QuotaService/ListUsage",
        "imsd.v1.AttachmentService/GetAttachment",
        "imsd.v1.AttachmentService/ListAttachments",
    }
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """``roles``: what is granted, by project. ``may``: rows; ``may_too``: calls beside them."""

    name: str
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    may: frozenset[str] = KNOWN
    may_too: frozenset[str] = frozenset()
    kind: CallerKind = CallerKind.API_TOKEN

    def allows(self, method: str, *, is_about_another: bool = False) -> bool:
        row = OTHERS if is_about_another else ROW_OF[method]
        return row in self.may or method in self.may_too


CASES = (
    Case(name="no role"),
    Case(name="an OIDC user without a role", kind=CallerKind.OIDC),
    Case(name="a certificate without a role", kind=CallerKind.CERTIFICATE),
    # Table 8-2
    Case(name="FullAccess", roles={"blue": (FULL,)}, may=OWNER),
    Case(name="FullAccess by OIDC", roles={"blue": (FULL,)}, may=OWNER, kind=CallerKind.OIDC),
    Case(name="FullAccess by certificate", roles={"blue": (FULL,)}, may=OWNER, kind=CallerKind.CERTIFICATE),
    Case(name="FullAccess in all projects", roles={"*": (FULL,)}, may=OWNER),
    Case(name="FullAccess of another project", roles={"green": (FULL,)}),
    Case(name="ReadOnlyAccess", roles={"blue": (READ_ONLY,)}, may=VIEWER),
    Case(name="ReadOnlyAccess in all projects", roles={"*": (READ_ONLY,)}, may=VIEWER),
    Case(
        name="ReadOnlyAccess, FullAccess of another",
        roles={"blue": (READ_ONLY,), "green": (FULL,)},
        may=VIEWER,
    ),
    # Table 8-1: "This role depends on the Tenant Administrator role."
    Case(name="Tenant Administrator", roles={"blue": (TENANT,)}),
    Case(name="IMS Administrator without Tenant Administrator", roles={"blue": (IMS,)}),
    Case(name="IMS Administrator", roles={"blue": (IMS, TENANT)}, may=OWNER),
    Case(name="IMS Administrator in all projects", roles={"*": (IMS, TENANT)}, may=OWNER),
    Case(name="Tenant Administrator in all projects", roles={"*": (TENANT,), "blue": (IMS,)}, may=OWNER),
    Case(name="Tenant Administrator elsewhere", roles={"green": (TENANT,), "blue": (IMS,)}),
    # Table 8-1: "This role depends on the IMS Administrator role in the same project."
    Case(name="Server Administrator alone", roles={"blue": (SERVER,)}),
    Case(name="Server Administrator without IMS Administrator", roles={"blue": (SERVER, TENANT)}),
    Case(name="Server Administrator without Tenant Administrator", roles={"blue": (SERVER, IMS)}),
    Case(name="IMS Administrator elsewhere", roles={"blue": (SERVER,), "green": (IMS, TENANT)}),
    Case(name="Server Administrator", roles={"blue": (SERVER, IMS, TENANT)}, may=OWNER),
    # Contract §12.1
    Case(name="KMS Administrator", roles={"blue": (KMS,)}, may=KNOWN | {KEEPING_KEYS}, may_too=KEY_QUERIES),
    Case(name="KMS Administrator elsewhere", roles={"green": (KMS,), "blue": (READ_ONLY,)}, may=VIEWER),
    Case(name="KMS Administrator with FullAccess", roles={"blue": (KMS, FULL)}, may=OWNER | {KEEPING_KEYS}),
    # A role that does not count takes nothing from one that does.
    Case(name="ReadOnlyAccess, IMS Administrator alone", roles={"blue": (READ_ONLY, IMS)}, may=VIEWER),
    # imsd's own
    Case(name="Operator", roles={"*": (OPERATOR,)}, may=SERVICE_OPERATOR, may_too=OPERATOR_QUERIES),
    Case(
        name="Operator of one project",
        roles={"blue": (OPERATOR,)},
        may=PROJECT_OPERATOR,
        may_too=OPERATOR_QUERIES,
    ),
    Case(name="Operator of another project", roles={"green": (OPERATOR,)}),
    Case(
        name="Operator with FullAccess",
        roles={"*": (OPERATOR,), "blue": (FULL,)},
        may=SERVICE_OPERATOR | OWNER,
    ),
    Case(name="a role that nobody knows", roles={"blue": ("Emperor",), "*": ("ims fullaccess",)}),
    Case(name="local administrator", may=EVERYTHING, kind=CallerKind.LOCAL_ADMINISTRATOR),
)
