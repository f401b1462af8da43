"""Exceptions of the S3 and HTTP clients, by what went wrong. Importing them takes a quarter of a second of CPU time."""

from __future__ import annotations

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

ANY = (BotoCoreError, ClientError, aiohttp.ClientError, HTTPError)
CONNECTION = (
    *(BotoConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError),
    *(HTTPError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError),
)
CERTIFICATE = (SSLError, aiohttp.ClientSSLError)
NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError)
NO_PROFILE = (ProfileNotFound,)
