"""How the names of others are shown: ids, paths, messages, and commands that are to be copied."""

import math
import re
import shlex

#: What a terminal obeys, what turns the order of letters round, and what is not seen; a line end is neither.
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)


def visible(text: str) -> str:
    r"""The same, with an escape such as ``\x1b`` for what is not seen or would be obeyed."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def visible_line(text: str) -> str:
    """As :func:`visible`, with line ends too."""
    return visible(text).replace("\n", r"\n")


def paragraphs(text: str) -> str:
    """The same with each paragraph in one line, for whoever breaks lines anew."""
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def command(*words: object) -> str:
    """A command line that a shell reads as these words, whatever is in them."""
    return " ".join(_quoted(str(word)) for word in words)


def percent(value: float, digits: int) -> str:
    """Percents with so many digits, and with more where these would say 0 or 100 of what is neither."""
    for more in range(digits, digits + 8):
        text = f"{value:.{more}f}"
        if float(text) not in (0.0, 100.0) or math.isclose(value, float(text), abs_tol=1e-9):
            break
    return f"{text}%"


def mean_sizes(user: float, item: float) -> str:
    """Mean embedding sizes of users and of items; of items alone where users have no rows."""
    return f"{user:.1f} : {item:.1f}" if user else f"{item:.1f}"


def _quoted(word: str) -> str:
    if visible_line(word) == word:
        return shlex.quote(word)
    # Bash and zsh know escapes.
    body = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in word.encode("utf-8", "surrogateescape")
    )
    return f"$'{body}'"
