"""Errors of the protocol: bytes that a peer should not have sent, or that we should not send."""

from __future__ import annotations


class ProtocolError(Exception):
    """The protocol was broken; the link on which it happened cannot be used any more."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that mean nothing: close the link, keep everything else."""


class LocalProtocolError(ProtocolError):
    """We were about to send something that the protocol forbids: a bug of ours."""
