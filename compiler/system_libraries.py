"""Which library of a phone or a PC provides a symbol that compiled code uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketformer.compiler.errors import LinkFailed
from pocketformer.targets import Target

# Provided by whatever runs a model: our runtime on a phone, TVM's libraries elsewhere.
RUNTIME = "libpocketformer_runtime.so"
RUNTIME_PREFIXES = ("TVMFFI", "TVMBackend")


def _symbols(names: str, *forms: str) -> frozenset[str]:
    return frozenset(form.format(name) for name in names.split() for form in forms or ("{}",))


# In glibc since 2.17 or longer and in bionic since API 21, where ldexp is in another library.
LIBM = _symbols(
    """
    acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs
    fdim floor fma fmax fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2
    logb lrint lround modf nan nearbyint nextafter pow remainder remquo rint round scalbln scalbn
    sin sincos sinh sqrt tan tanh tgamma trunc
    """,
    "{}",
    "{}f",
) - {"ldexp"}
LIBC = _symbols(
    """
    abort calloc free ldexp malloc memchr memcmp memcpy memmove memset realloc strcmp strlen
    """
)
GLIBC_LIBM = LIBM | _symbols("exp10", "{}", "{}f")
GLIBC = LIBC | _symbols(
    "bcmp clock_gettime getpid posix_memalign sigfillset syscall"
)
# A library of its own before glibc 2.34, and still there by that name.
PTHREAD = _symbols(
    """
    attr_destroy attr_init attr_setstacksize create getspecific join key_create key_delete
    setspecific sigmask
    """,
    "pthread_{}",
)
# What 32-bit ARM has no instructions for. bionic exports them (under LIBC_PRIVATE in libc.map.txt,
# LIBC_DEPRECATED in libm.map.txt) for the sake of programs that were linked long ago.
ARM_LIBM = LIBM | _symbols("d2lz d2ulz f2lz f2ulz", "__aeabi_{}")
ARM_LIBC = LIBC | _symbols(
    """
    idiv idivmod uidiv uidivmod ldivmod uldivmod lmul llsl llsr lasr l2d l2f ul2d ul2f
    memclr memclr4 memclr8 memcpy memcpy4 memcpy8 memmove memmove4 memmove8 memset memset4 memset8
    unwind_cpp_pr0 unwind_cpp_pr1
    """,
    "__aeabi_{}",
)
# Names under which 32-bit ARM calls functions that TVM puts into each of its object files.
ALIASES = {"__gnu_f2h_ieee": "__truncsfhf2", "__gnu_h2f_ieee": "__extendhfsf2"}


@dataclass(frozen=True)
class Library:
    """A shared library of the system; `always` says that it is needed even without a symbol."""

    soname: str
    symbols: frozenset[str]
    always: bool = False


GLIBC_LIBRARIES = (
    Library("libm.so.6", GLIBC_LIBM),
    Library("libpthread.so.0", PTHREAD),
    Library("libc.so.6", GLIBC, True),
)
LIBRARIES = {
    ("x86_64", "linux"): GLIBC_LIBRARIES,
    ("aarch64", "linux"): GLIBC_LIBRARIES,
    ("aarch64", "android"): (Library("libm.so", LIBM), Library("libc.so", LIBC, True)),
    ("arm", "android"): (Library("libm.so", ARM_LIBM), Library("libc.so", ARM_LIBC, True)),
}


def undefined_symbols(objects: Sequence[Path]) -> frozenset[str]:
    """What `objects` together use and do not define; weak uses do not count.

    Raises LinkFailed for a file that is no object file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    used: set[str] = set()
    defined: set[str] = set()
    for path in objects:
        try:
            with path.open("rb") as file:
                table = ELFFile(file).get_section_by_name(".symtab")
                for symbol in table.iter_symbols() if table else ():
                    if symbol["st_shndx"] != "SHN_UNDEF":
                        defined.add(symbol.name)
                    elif symbol["st_info"]["bind"] == "STB_GLOBAL":
                        used.add(symbol.name)
        except OSError as error:
            raise LinkFailed(f"cannot read the object file {path}: {error.strerror}") from None
        except ELFError as error:
            raise LinkFailed(f"{path} is no object file: {error}") from None
    return frozenset(used - defined)


def route(undefined: Iterable[str], target: Target) -> dict[str, list[str]]:
    """SONAME -> the symbols of `undefined` that this library gives, for all libraries to link.

    The runtime's symbols are left out where the process that loads the model has them already, as
    Python with TVM does. Raises LinkFailed, naming what no library gives.
    """
    libraries = LIBRARIES[target.arch, target.os]
    routed: dict[str, list[str]] = {each.soname: [] for each in libraries if each.always}
    if target.os == "android":
        # bionic looks nowhere but in the libraries that are named.
        routed = {RUNTIME: [], **routed}
    unknown = []
    for symbol in sorted(undefined):
        if symbol.startswith(RUNTIME_PREFIXES):
            if RUNTIME in routed:
                routed[RUNTIME].append(symbol)
            continue
        for library in libraries:
            if symbol in library.symbols:
                routed.setdefault(library.soname, []).append(symbol)
                break
        else:
            unknown.append(symbol)
    if unknown:
        names = ", ".join(each.soname for each in libraries)
        raise LinkFailed(
            f"the code for {target.name} uses {', '.join(unknown)}, "
            f"which neither {names} nor the runtime is known to provide"
        )
    return routed
