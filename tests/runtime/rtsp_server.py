"""A real RTSP server, for test_rtsp.py: it plays a folder of JPEG files in a loop.

Run by the system's Python, which sees the system's GStreamer, and by no test runner:
``/usr/bin/python3 rtsp_server.py PORT FOLDER [USER PASSWORD]`` with 00000.jpg, 00001.jpg ... in the folder.
It prints "ready" when it listens.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

FRAMES_PER_SECOND = 25


def main(port: str, folder: str, *credentials: str) -> None:
    """Serve rtsp://127.0.0.1:PORT/line until killed."""
    gi: Any = import_module("gi")
    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    GLib: Any = import_module("gi.repository.GLib")
    Gst: Any = import_module("gi.repository.Gst")
    GstRtspServer: Any = import_module("gi.repository.GstRtspServer")
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f'( multifilesrc location="{folder}/%05d.jpg" loop=true '
        f"caps=image/jpeg,framerate={FRAMES_PER_SECOND}/1 ! jpegparse ! rtpjpegpay name=pay0 pt=26 )"
    )
    factory.set_shared(True)
    if credentials:
        user, password = credentials
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        role, _ = Gst.Structure.from_string("user, media.factory.access=true, media.factory.construct=true")
        factory.add_role_from_structure(role)
    server.get_mount_points().add_factory("/line", factory)
    if not server.attach(None):
        raise SystemExit(f"port {port} is taken")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
