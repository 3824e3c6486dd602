"""Whether a union still holds what was packed, byte for byte. The originals are not needed."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.fusion.retention import Evidence, RetentionCertificate, Tier, certified
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.fusion.union.branch import open_branch

SHOWN = 3


def verify_union(path: str | PathLike[str], *, progress: Callable[[str], None] | None = None) -> RetentionCertificate:
    """Read every blob: its coded bytes against their checksum, its plain bytes against their hash, every branch's n.

    Raises:
        CheckpointError: damage; the tensors that it reaches are named.
    """
    archive = Archive(path)
    for name in archive.branches:
        opened = open_branch(archive, name)
        if opened.n.hash != archive.branches[name].parameter.hash:
            raise CheckpointError(f"{archive.path}: {name}: its config no longer gives the n that was packed")
    blobs = archive.blobs
    for index, (name, blob) in enumerate(blobs.known.items()):
        if progress is not None:
            progress(f"{index + 1} of {len(blobs.known)} blobs")
        try:
            if blobs.crc32(name) != blob.crc32:
                raise CheckpointError("its coded bytes have changed")
            for _ in blobs.chunks(name):
                pass
        except CheckpointError as error:
            users = list(archive.users(name))
            more = f" and {len(users) - SHOWN} more" if len(users) > SHOWN else ""
            raise CheckpointError(f"{archive.path}: {', '.join(users[:SHOWN])}{more}: {error}") from None
    evidence = (Evidence(source=name, weights_equal=True) for name in archive.branches)
    plain = sum(branch.nbytes for branch in archive.branches.values())
    size = archive.path.stat().st_size
    notes = (f"{plain:,} bytes of tensors in a file of {size:,}: {size / max(plain, 1):.3f} of their sum",)
    return certified(f"union {archive.path.name}", Tier.WEIGHTS, *evidence, notes=notes)
