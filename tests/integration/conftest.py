"""What holds where tests start Ray in their own process: a client of a Ray that has ended must not end the tests.

A GCS client that still has a question in flight when its Ray is shut down asks on, and after
``gcs_rpc_server_reconnect_timeout_s`` (60 by default) Ray ends the whole process with exit code 1 and a line on
standard error that pytest has captured: a test run that stops between two modules without a word. So the client is
told to wait for longer than these tests run.
"""

import os

os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "1800")
