"""Knobs that ask a real kernel for pictures, faster than it can draw them."""

import time

from jupyter_client.manager import start_new_kernel

PATIENCE = 300  # s, against a hang, not a slow machine
PREPARE = """
import time

import ipywidgets
import numpy as np

from lensnb.display import answering

asked = []

def draw(number):
    asked.append(number)
    time.sleep(0.3)
    return answering.Drawn(np.zeros((1, 1, 8, 8)), f"number {number}.")

knob = ipywidgets.IntSlider(0, 0, 99)
box = answering.Answering({"number": knob}, draw, zoom=1)
print(knob.comm.comm_id, box.shown.comm.comm_id)
"""


def printed(client, code):
    """What a cell prints."""
    texts = []

    def keep(message):
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"])
        assert message["msg_type"] != "error", message["content"]["traceback"]

    client.execute_interactive(code, timeout=PATIENCE, output_hook=keep)
    return "".join(texts)


def move(client, comm, value):
    """Say that the browser moved a slider."""
    data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
    message = client.session.msg("comm_msg", {"comm_id": comm, "data": data})
    client.shell_channel.send(message)


def test_stale_requests_are_dropped_and_the_last_picture_reaches_the_browser():
    manager, client = start_new_kernel(startup_timeout=PATIENCE)
    try:
        knob, shown = printed(client, PREPARE).split()
        for value in range(1, 31):
            move(client, knob, value)
        told = ""
        until = time.monotonic() + PATIENCE
        while "number 30." not in told and time.monotonic() < until:
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == shown:
                told = message["content"]["data"]["state"].get("value", told)
        asked = printed(client, "box.settle(); print(*asked)").split()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "number 30." in told and asked[0] == "0" and asked[-1] == "30"
    assert len(asked) < 16, asked  # 30 moves, most of which came while a picture was drawn
