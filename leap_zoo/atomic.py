"""The former name of a part of `leap_zoo.files`."""

from leap_zoo.files import atomic_file, sync_folder

__all__ = ["atomic_file", "sync_folder"]
