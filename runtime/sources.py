"""What the native runtime is compiled from: sources of the installed TVM and tvm-ffi, and ours."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pocketformer
from pocketformer.compiler.errors import BuildFailed

HERE = Path(__file__).parent
HEADER = HERE / "include/pocketformer.h"
TVM_VERSION = version("apache-tvm")

# All that opening and running a compiled model needs. Left out: tvm-ffi's comparison, hashing and
# copying of compiler data; TVM's KV cache, its GPU code, its readers of parameter files.
FFI = """
    backtrace container custom_allocator dtype error function init_once object tensor
    extra/env_c_api extra/env_context extra/json_parser extra/json_writer extra/library_module
    extra/library_module_dynamic_lib extra/library_module_system_lib extra/module
"""
TVM = """
    const_loader_module cpu_device_api device_api file_utils logging memory/memory_manager module
    tensor vm/builtin vm/bytecode vm/executable vm/vm workspace_pool
"""
# What a device that takes calls over a connection needs on top. Not rpc_server_env: its upload
# takes any path.
TVM_DEVICE = """
    rpc/rpc_channel rpc/rpc_device_api rpc/rpc_endpoint rpc/rpc_event_impl rpc/rpc_local_session
    rpc/rpc_module rpc/rpc_session rpc/rpc_socket_impl timer
"""
CODE = (
    "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden",
    "-ffunction-sections", "-fdata-sections", "-pthread",
)
DEFINES = (
    "-DNDEBUG", "-DTVM_FFI_USE_LIBBACKTRACE=0", "-DTVM_FFI_BACKTRACE_ON_SEGFAULT=0",
    "-DTVM_FFI_CMAKE_LITTLE_ENDIAN=1",    # else asked of glibc's or bionic's headers
    "-DTVM_EXPORTS", "-DTVM_FFI_EXPORTS", "-DTVM_RUNTIME_EXPORTS",
)


@dataclass(frozen=True)
class Source:
    """A file to compile with `flags`; `headers` is a checksum of what it may include."""

    path: Path
    flags: tuple[str, ...]
    headers: str


def library_sources() -> list[Source]:
    """The sources of both libraries, the one for apps and the one for a device."""
    return [*_wheels(FFI, TVM), *_ours("src/*.cc"), _pool("pool.c")]


def device_sources() -> list[Source]:
    """The sources that only the library of a device has."""
    return [*_wheels("", TVM_DEVICE), *_ours("src/device/*.cc")]


def pool_sources() -> list[Source]:
    """The sources of the threads that a model.so brings for Python."""
    return [_pool("pool.c"), _pool("model.c")]


def program_source(path: str) -> Source:
    """A program in C below runtime/, which sees the C API alone."""
    flags = ("-std=c11", "-O2", "-fPIE", "-Wall", "-Wextra", f"-I{HERE / 'include'}")
    return Source(HERE / path, flags, _checksum("include", "run"))


def _wheels(ffi: str, tvm: str) -> list[Source]:
    paths = [_wheel("tvm_ffi") / f"src/ffi/{name}.cc" for name in ffi.split()]
    paths += [_wheel("tvm") / f"src/runtime/{name}.cc" for name in tvm.split()]
    # TVM includes "../support/x.h" and "../../support/x.h": seen from these folders, that is ours.
    compat = HERE / "compat"
    quoted = ("-iquote", str(compat / "tvm"), "-iquote", str(compat / "tvm/support"))
    # For size: a run spends its time in the model's kernels, which lie elsewhere.
    flags = (*CODE, "-Os", *DEFINES, *_includes(), *quoted, "-w")
    return [Source(path, flags, _checksum("compat")) for path in paths]


def _ours(pattern: str) -> list[Source]:
    versions = (
        f'-DPOCKETFORMER_VERSION="{pocketformer.__version__}"',
        f'-DPOCKETFORMER_TVM_VERSION="{TVM_VERSION}"',
    )
    own = (f"-I{HERE / 'include'}", f"-I{HERE / 'src'}", f"-I{HERE}")
    flags = (*CODE, "-O2", *DEFINES, *versions, *own, *_includes(), "-Wall", "-Wextra")
    headers = _checksum("compat", "include", "pool", "src")
    return [Source(path, flags, headers) for path in sorted(HERE.glob(pattern))]


def _pool(name: str) -> Source:
    flags = (
        "-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-pthread",
        *_includes(), "-Wall", "-Wextra",
    )
    return Source(HERE / "pool" / name, flags, _checksum("pool"))


def _includes() -> tuple[str, ...]:
    wheels = (
        _wheel("tvm") / "include",
        _wheel("tvm_ffi") / "include",
        _wheel("tvm_ffi") / "3rdparty/dlpack/include",
    )
    # Messages carry the names of source files: without the folders of this machine.
    site, ours = _wheel("tvm").parent, HERE.parent
    folders = tuple(word for path in wheels for word in ("-isystem", str(path)))
    names = (f"-ffile-prefix-map={site}/=", f"-ffile-prefix-map={ours}/=")
    return ("-isystem", str(HERE / "compat"), *folders, *names)


@cache
def _wheel(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations \
        else None
    if folder is None or not (folder / "src").is_dir():
        raise BuildFailed(
            f"the installed {name} brings no C++ sources; "
            f"pip install apache-tvm apache-tvm-ffi brings them"
        )
    return folder


def _checksum(*folders: str) -> str:
    """Of the headers in `folders` below runtime/; those of the wheels change with their version."""
    digest = hashlib.sha256(f"{TVM_VERSION} {version('apache-tvm-ffi')}".encode())
    for folder in folders:
        for header in sorted((HERE / folder).rglob("*.h")):
            digest.update(header.relative_to(HERE).as_posix().encode())
            digest.update(header.read_bytes())
    return digest.hexdigest()
