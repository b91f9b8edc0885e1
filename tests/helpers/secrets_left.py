"""What is left of a secret."""

from pathlib import Path

SECRET = "open-sesame-7361"


def holding(secret: str, *folders: Path) -> list[Path]:
    """Files whose bytes hold it, those of MLflow and hidden ones among them."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if secret.encode() in file.read_bytes()]
