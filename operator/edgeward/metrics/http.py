"""One HTTP answer, whole and in time, or none: what a server sends is bounded before anybody looks at it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
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
