"""The headers that tell a browser what each answer may do."""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=(), payment=(), usb=()"),
]

DATA = [*COMMON, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")]
"""For answers to programs: a browser that opens one runs nothing and loads nothing."""

PAGE = [
    *COMMON,
    (
        b"content-security-policy",
        # Gradio writes its configuration as a script into the page, styles into elements, and compiles functions.
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        b"worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
]
"""For pages: everything comes from this server, and other sites may not frame them."""

BROWSER = [
    *COMMON,
    (b"cache-control", b"no-cache"),  # a browser revalidates each time; the ETag saves the transfer
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    ),
]
"""For the page that runs models in the browser: WebAssembly, modules of this server, no script in the page itself."""

# The headers that pages of the origins in LEAP_ZOO_SERVE_CORS may read.
READ = ("X-Request-ID", "Retry-After", "ETag", "Content-Range", "Accept-Ranges", "WWW-Authenticate")
