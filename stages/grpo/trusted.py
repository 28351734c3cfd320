"""Reading torch's distributed checkpoints without running what a forged one says.

The format pickles its description of tensors, and all that is no tensor. Unpickled as torch does it, a run folder from
somebody else could run code here; so only the few classes are let through of which the format is made.
"""

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

NAMES = {
    "pathlib": {"PosixPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
}  # fmt: skip
"""What a description is made of, besides the data types of tensors."""


class TrustedReader(FileSystemReader):  # type: ignore[misc]
    """torch's, but for how the description is unpickled."""

    def read_metadata(self, *arguments: Any, **named: Any) -> Metadata:
        """Return the description. Raises UnpicklingError for one that is made of anything else."""
        with self.fs.create_stream(self._get_metadata_path(named.get("rank")), "rb") as file:
            metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class TrustedPlanner(DefaultLoadPlanner):  # type: ignore[misc]
    """torch's, but for how what is no tensor is unpickled."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Take up a value. Raises UnpicklingError where it is more than numbers, words and collections of them."""
        assert read_item.type == LoadItemType.BYTE_IO
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or name in NAMES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"a checkpoint names {module}.{name}, which is no part of one: it was not written by this program; do not "
            "use what came with it"
        )
