"""Health of the role in this container: exit status 0 when /healthz on HEALTH_PORT answers 200, else 1 and why.

Only the standard library: it runs every few seconds, and importing the product would cost more than the check.
"""

import http.client
import os
import sys


def main() -> int:
    """Ask once."""
    port = os.environ.get("HEALTH_PORT", "8710")
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=3)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        body = answer.read(2000).decode("utf-8", "replace")
    except OSError as error:
        sys.stderr.write(f"healthcheck: port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    if answer.status != 200:
        sys.stderr.write(f"healthcheck: port {port}: {answer.status} {body}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
