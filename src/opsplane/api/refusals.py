"""What the edge of either plane may answer to any request at all, before or instead of its route."""

from http import HTTPStatus

from opsplane.errors import NotFound, OpsplaneError, ServiceUnavailable


class BodyTooLarge(OpsplaneError):
    """The body is larger than `OPSPLANE_MAX_BODY_BYTES`."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The body is larger than {max_bytes} bytes.", max_bytes=max_bytes)


class TooManyRequests(OpsplaneError):
    """One client address asks too often."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("Too many requests from this address; slow down.")
        self.retry_after_s = retry_after_s


class CrossSiteRequest(OpsplaneError):
    """A page of another origin, or something that does not say where it comes from, asked for a change."""

    status, code = HTTPStatus.FORBIDDEN, "cross_site_request"

    def __init__(self) -> None:
        super().__init__(
            "This change did not come from a page of opsplane. Browsers say so with Sec-Fetch-Site or Origin; a script "
            "that signs in sends Sec-Fetch-Site: same-origin, one with an API token needs neither."
        )


class JsonRequired(OpsplaneError):
    """A body that a page of another origin could send without asking."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "json_required"

    def __init__(self) -> None:
        super().__init__("Send the body as JSON, with the header Content-Type: application/json.")


# NotFound: the gate's, also when the session ended between two requests.
EVERYWHERE: tuple[type[OpsplaneError], ...] = (
    CrossSiteRequest, NotFound, BodyTooLarge, JsonRequired, TooManyRequests, ServiceUnavailable,
)  # fmt: skip
