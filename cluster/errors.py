"""What can go wrong with a cluster and can be mended."""

from __future__ import annotations

from genrec.errors import GenrecError


class ClusterError(GenrecError):
    """No cluster answers, it refuses the token, or it cannot take the job."""
