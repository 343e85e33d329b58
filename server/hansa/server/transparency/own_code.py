"""Which code this server runs, as its log states it."""

from hansa.core.code_identity import installed_code
from hansa.core.transparency.leaves import CodeLeaf
from hansa.server.plane.version import SOFTWARE


def own_code() -> CodeLeaf:
    """The fact about this process.

    Raises:
        InvalidInputError: the installed sources cannot be read.
    """
    return CodeLeaf(role="server", software=SOFTWARE, code_digest=installed_code())
