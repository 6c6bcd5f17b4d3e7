"""What can go wrong with a certificate, in words."""

import ssl


def trouble(where: str, error: BaseException) -> str | None:
    """Why there was no encrypted connection, if that is what stood behind the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"The certificate of {where} is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"{where} speaks no TLS that is understood"
        cause = cause.__cause__ or cause.__context__
    return None
