"""Public forges that serve one repository under several addresses, and the canonical address of each.

* Azure DevOps: ``dev.azure.com/ORG/PROJECT/_git/REPO`` for addresses of ``dev.azure.com``, ``ssh.dev.azure.com`` and
  ``visualstudio.com``, old and new. Without a project, the project has the name of the repository.
* GitHub, GitLab and Bitbucket: their web names, and the host names of their SSH on port 443.
* Gists: only the id counts; the owner before it may be missing.
"""

from __future__ import annotations

CASE_BLIND = frozenset(
    {"github.com", "gist.github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "dev.azure.com"}
)
"""Forges that treat Org/Repo and org/repo as one repository."""

_AZURE = "dev.azure.com"
_AZURE_SSH = frozenset({"ssh.dev.azure.com", "vs-ssh.visualstudio.com"})
_AZURE_OLD = ".visualstudio.com"
_COLLECTION = "defaultcollection"
_MARKS = frozenset({"_git", "_ssh"})
_VIEWS = frozenset({"_full", "_optimized"})  # how much of a repository a clone gets

_SAME_HOST = {
    "www.github.com": "github.com",
    "ssh.github.com": "github.com",
    "www.gitlab.com": "gitlab.com",
    "altssh.gitlab.com": "gitlab.com",
    "www.bitbucket.org": "bitbucket.org",
    "altssh.bitbucket.org": "bitbucket.org",
    "www.codeberg.org": "codeberg.org",
}
_SSH_BEHIND_HTTPS = frozenset({"ssh.github.com", "altssh.gitlab.com", "altssh.bitbucket.org"})
_HTTPS_PORT = 443


def decodes_short_form(host: str) -> bool:
    """Return whether the forge percent-encodes the path of its short SSH addresses; only Azure does."""
    return host in _AZURE_SSH


def canonical_address(host: str, port: int | None, path: list[str], user: str) -> tuple[str, int | None, list[str]]:
    """Return (host, port, parts of the path) of the canonical address; unchanged for an unknown forge.

    *user*: the SSH user; in Azure's oldest addresses it is the organisation.
    """
    if host in _SAME_HOST and (port is None or (port == _HTTPS_PORT and host in _SSH_BEHIND_HTTPS)):
        return _SAME_HOST[host], None, path
    if host == "gist.github.com" and port is None:
        return host, port, path[-1:]
    if port is None and (host == _AZURE or host in _AZURE_SSH or host.endswith(_AZURE_OLD)):
        azure_path = _azure(host, path, user)
        if azure_path is not None:
            return _AZURE, None, azure_path
    return host, port, path


def _azure(host: str, path: list[str], user: str) -> list[str] | None:
    """Return ORG, PROJECT, _git, REPO; None for an address of another form."""
    if host in _AZURE_SSH and path[:1] in (["v3"], ["V3"]):
        # v3/ORG/PROJECT/REPO; a project may have the name of its repository
        rest = path[1:]
        return [*rest[:-1], "_git", rest[-1]] if len(rest) == len(("org", "project", "repo")) else None
    if host == _AZURE:
        organisation, rest = path[:1], path[1:]
    elif host in _AZURE_SSH:
        organisation, rest = [user] if user else [], path
    else:
        organisation, rest = [host.removesuffix(_AZURE_OLD)], path
    if rest and rest[0].lower() == _COLLECTION:
        rest = rest[1:]
    at = next((place for place, part in enumerate(rest[:2]) if part.lower() in _MARKS), None)
    if not organisation or at is None:
        return None
    project, repository = rest[:at], rest[at + 1 :]
    if repository and repository[0].lower() in _VIEWS:
        repository = repository[1:]
    if len(repository) != 1:
        return None
    return [*organisation, *(project or repository), "_git", *repository]
