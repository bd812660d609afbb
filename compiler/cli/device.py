"""`pocketformer device emulate | tracker | list | push`: devices to run on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pocketformer.compiler.cli.common import (
    USER_ERROR,
    Debug,
    Json,
    TokenFile,
    err,
    guarded,
    out,
    print_json,
    progress,
    read_token_file,
)
from pocketformer.compiler.device.address import PORT

if TYPE_CHECKING:
    from pocketformer.compiler.device.adb import Listed

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0 = any free.")]

app = typer.Typer(
    no_args_is_help=True, help="Phones to run on: emulated, in the network, on a cable."
)


@app.command()
@guarded
def emulate(
    cpu: Annotated[
        str, typer.Option(help="cortex-a76 (dotprod, fp16) or max (also i8mm, bf16, sve2).")
    ] = "cortex-a76",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"{PORT} by default, any free one with --tracker."),
    ] = None,
    key: Annotated[str, typer.Option(help="The phone's name.")] = "pocketformer",
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Register with this tracker.")
    ] = None,
    token_file: TokenFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an emulated ARM64 phone until Ctrl-C.

    Sets up qemu and an arm64 C library from Debian's packages on first use, which takes no root.
    """
    from pocketformer.compiler.device.emulator import Phone
    from pocketformer.compiler.errors import DeviceLost

    if port is None:
        port = 0 if tracker else PORT
    with progress("setting up") as step:
        token = read_token_file(token_file)
        phone = Phone.start(cpu, port, key, token, tracker, progress=step)
    try:
        with phone:
            if json:
                print_json({"address": phone.address, "cpu": cpu, "pid": phone.pid})
            else:
                _lines(f"An emulated phone with {cpu} cores: {phone.address}")
                _next_steps(phone.address)
            sys.stdout.flush()
            code = phone.wait()
            last = (phone.log.strip().splitlines() or ["its log is empty"])[-1]
    except KeyboardInterrupt:       # it may come as soon as the address is printed
        return
    raise DeviceLost(f"the emulated phone ended with code {code}: {last}")


@app.command()
@guarded
def tracker(
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 is for devices in the network.")
    ] = "127.0.0.1",
    port: Port = PORT,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run TVM's tracker, which hands out free devices by their keys, until Ctrl-C."""
    from pocketformer.compiler.device.tracker import serve

    def ready(host: str, port: int) -> None:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if json:
            print_json({"address": f"rpc://{place}"})
        else:
            _lines(
                f"A tracker: rpc://{place}",
                "Try in another terminal:",
                f"  pocketformer device emulate --tracker {place}",
                f"  pocketformer device list rpc://{place}",
            )
        sys.stdout.flush()

    try:
        serve(host, port, ready)
    except KeyboardInterrupt:
        return


@app.command(name="list")
@guarded
def list_(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[rpc://HOST:PORT...]",
            help=f"Devices and trackers; by default port {PORT} of this machine.",
            show_default=False,
        ),
    ] = None,
    token_file: TokenFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List devices with their cores and instructions, and the phones that adb sees."""
    from pocketformer.compiler.cli.device_table import record, show
    from pocketformer.compiler.device.address import Address
    from pocketformer.compiler.device.listing import find_devices
    from pocketformer.compiler.device.token import find_token

    wanted = [Address.parse(each) for each in addresses or ()]
    found = find_devices(wanted, find_token(read_token_file(token_file)))
    phones = _phones()
    if json:
        devices = [record(each) for each in found]
        print_json({"devices": devices, "phones": [asdict(each) for each in phones]})
    else:
        show(found, phones)
    if any(each.trouble and not each.tracker for each in found):
        raise typer.Exit(USER_ERROR)


@app.command()
@guarded
def push(
    serial: Annotated[str | None, typer.Option(help="Which phone, where adb sees several.")] = None,
    port: Port = PORT,
    key: Annotated[
        str | None, typer.Option(help="The phone's name; its model by default.")
    ] = None,
    token_file: TokenFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an Android phone ready: upload the device program, start it, forward its port."""
    from pocketformer.compiler.device.push import push as push_to_phone

    with progress("looking for a phone") as step:
        done = push_to_phone(serial, port, key, read_token_file(token_file), progress=step)
    if json:
        print_json(asdict(done))
        return
    sent = "uploaded" if done.uploaded else "was there already"
    _lines(
        f"{done.model} with Android {done.android}, {done.target}, the device program {sent}: "
        f"{done.address}"
    )
    _next_steps(done.address, done.target)


def _next_steps(address: str, target: str = "arm64-linux") -> None:
    _lines(
        "Try in another terminal:",
        f"  pocketformer compile model.onnx --target {target} -o model.pf",
        f"  pocketformer run model.pf --device {address}",
    )


def _lines(*lines: str) -> None:
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _phones() -> list[Listed]:
    """What adb sees; nothing without adbutils, and a note where its server is out of order."""
    from pocketformer.compiler.device import adb
    from pocketformer.compiler.errors import DeviceLost, MissingPackage

    try:
        return adb.phones()
    except MissingPackage:
        return []
    except DeviceLost as error:
        err.print(f"[yellow]note:[/] {escape(str(error))}")
        return []
