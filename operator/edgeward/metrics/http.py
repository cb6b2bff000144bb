"""One HTTP answer, whole and in time, or none: what a server sends is bounded before anybody looks at it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

MOST = 8 * 2**20
"""bytes of an answer, unpacked: forty thousand nodes. A larger one would hold the whole process up while it is read"""


class TooLarge(requests.exceptions.RequestException):
    pass


class Redirected(requests.exceptions.RequestException):
    pass


class Bounded(HTTPAdapter):
    """Reads the whole answer before it returns: at most `most` bytes, and within `deadline` seconds. The library's own
    time limit is for each read from the socket, so that a byte now and then holds a thread for ever.

    No retries, as the next reading is soon; no redirects, as they may lead anywhere, with our credentials.
    """

    def __init__(self, *, deadline: float, most: int = MOST) -> None:
        super().__init__(max_retries=Retry(total=0))
        self._deadline = deadline
        self._most = most

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        end = time.monotonic() + self._deadline
        response = super().send(request, stream=True, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        if response.is_redirect:
            response.close()
            raise Redirected(request=request)
        content = bytearray()
        try:
            while chunk := response.raw.read1(65536, decode_content=True):
                content += chunk
                if len(content) > self._most:
                    raise TooLarge(request=request)
                if time.monotonic() > end:
                    raise requests.exceptions.ReadTimeout(request=request)
            if response.raw.length_remaining:
                raise requests.exceptions.ChunkedEncodingError(request=request)
        except BaseException:
            # What is left of it must not be taken for the next answer.
            response.close()
            raise
        response._content = bytes(content)
        response._content_consumed = True  # type: ignore[attr-defined]
        response.raw.release_conn()
        return response


def connect(url: str, *, deadline: float, headers: Mapping[str, str] | None = None) -> PrometheusConnect:
    """The library's client with these bounds. Its own time limit is per socket operation, and its retries take six
    seconds."""
    session, url = requests.Session(), url.rstrip("/")
    client = PrometheusConnect(url=url, headers=dict(headers or {}), session=session, timeout=math.ceil(deadline))
    session.mount(url, Bounded(deadline=deadline))  # in the place of the adapter that it has just mounted
    return client


def in_words(error: Exception) -> str:
    """What went wrong, in words that stay the same from one failure to the next: they end up in conditions."""
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "answered something that is not JSON"
    if isinstance(error, TooLarge):
        return f"sent more than {MOST >> 20} MiB"
    if isinstance(error, Redirected):
        return "answered with a redirect, which is not followed: set the address that it leads to"
    if isinstance(error, (KeyError, TypeError, IndexError, AttributeError)):
        return "answered something that is not a vector"
    if isinstance(error, (requests.exceptions.RequestException, HTTPError)):
        return "cannot be reached, or broke off"
    if isinstance(error, PrometheusApiClientException):
        # Of the body only Prometheus' own words, such as a parse error; a proxy's may hold a request's number.
        status, own = re.search(r"HTTP Status Code (\d+)", str(error)), re.search(r'"error": ?"([^"]*)"', str(error))
        told = f": {own[1][:120]}" if own else ""
        return f"refused the query{f' with HTTP {status[1]}' if status else ''}{told}"
    return f"failed: {type(error).__name__}"
