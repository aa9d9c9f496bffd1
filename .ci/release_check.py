"""What only the owner knows must be filled in before a release: see CONTRIBUTING.

python .ci/release_check.py [pyproject.toml]

Names everything that is missing and ends with 1; with nothing missing it ends with 0.
"""

import os
import sys
from pathlib import Path

import tomllib

TOKEN = "REGISTRY_ACCESS_TOKEN"


def missing(text: str, secrets: dict[str, str]) -> list[str]:
    """What a release lacks, one sentence each."""
    found = tomllib.loads(text)
    comfy = found.get("tool", {}).get("comfy", {})
    repository = found.get("project", {}).get("urls", {}).get("Repository", "")
    lacks = []
    if not repository.startswith("https://"):
        lacks.append("pyproject.toml: [project.urls] Repository, the public address of this code.")
    for key in ("Icon", "Banner"):
        if not comfy.get(key, "").startswith("https://"):
            lacks.append(f"pyproject.toml: [tool.comfy] {key}, the address of a picture.")
    if not comfy.get("PublisherId"):
        lacks.append("pyproject.toml: [tool.comfy] PublisherId, your name in the registry.")
    if not secrets.get(TOKEN):
        lacks.append(f"the secret {TOKEN} of the repository, the publisher's key.")
    return lacks


def main() -> int:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "pyproject.toml")
    lacks = missing(path.read_text("utf-8"), dict(os.environ))
    for sentence in lacks:
        print(f"Missing for a release: {sentence}")
    return bool(lacks)


if __name__ == "__main__":
    sys.exit(main())
