"""What a test suite can import."""

from .capture import capture_mailers, real_hosts

__all__ = ["capture_mailers", "real_hosts"]
