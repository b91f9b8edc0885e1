"""Passwords and tokens within URIs: hidden wherever one leaves the process, asked for where one is needed."""

import os
import re
from urllib.parse import urlsplit

from envs.errors import ConfigError

#: Stands where a secret stood.
_HIDDEN = "…"
#: A user with a password, which databases take with any character in it; or all that a web address names.
_USER = re.compile(r"://(?:[^/?#\s:]*:\S*@|(?<=http://)[^/?#\s]*@|(?<=https://)[^/?#\s]*@)")
#: Of a query, e.g. sslpassword, access_token, api-key; sslmode, charset and the like are no secrets. All of
#: an ODBC connection is one value, whose password is within it, written with escapes.
_QUERY = re.compile(
    r"([?&;#](?:[^=&;#\s]*(?:token|secret|passw|pwd|credential|signature)[^=&;#\s]*"
    r"|(?:[^=&;#\s]*[-_.])?(?:key|auth|sig|sas|pass|jwt)|apikey|accesskey|accountkey|odbc_connect)=)[^&;#\s'\"]+",
    re.IGNORECASE,
)
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
#: Where MLflow itself looks for what a server asks for.
_SERVER_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def without_secrets(text: object) -> str:
    """Text in which URIs name neither users with their passwords nor tokens; other text stays as it is."""
    return _QUERY.sub(rf"\1{_HIDDEN}", _USER.sub(f"://{_HIDDEN}@", str(text)))


def with_secret(uri: str, field: str = "tracking.uri") -> str:
    """A URI that can be used, of one that was kept, from which secrets are hidden.

    Args:
        uri: As :func:`without_secrets` left it; any other is returned as it is.
        field: Which field it is of.

    Raises:
        ConfigError: Its secret is nowhere to be found.
    """
    if without_secrets(uri) != uri or _HIDDEN not in uri:
        return uri
    from_environment = os.environ.get(_URI_VARIABLE, "")
    if without_secrets(from_environment) == uri:
        return from_environment
    bare = uri.replace(f"://{_HIDDEN}@", "://")
    is_server = urlsplit(uri).scheme in ("http", "https")
    if is_server and _HIDDEN not in bare and any(os.environ.get(name) for name in _SERVER_VARIABLES):
        return bare
    raise ConfigError(
        f"{field}={uri}: its password or token is kept in no file. Give it again: {field}=URI beside the "
        f"folder, or the whole URI in the environment variable {_URI_VARIABLE}"
        + (
            " (or a server's own in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            if is_server
            else ""
        )
        + "; tracking.mlflow=false goes on without."
    )
