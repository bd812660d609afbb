"""One vocabulary for the precision of kernels and layers, and what limits a kernel."""

import pytest

from pocketformer.passes.precision import multiplied_by


@pytest.mark.parametrize(
    ("kernel", "precision"),
    [
        ("i8_gemm_8x48k4_vpdpbusd", "int8"), ("bf16_attention_8x32v8x32b128_bfdot", "bfloat16"),
        ("f16_gemm_8x24k4_fp16", "float16"), ("f32_i4w_gemv_1x48_sdot", "int8"),
        ("i8_i8w_gemm_4x48_sdot", "int8"), ("f32_norm_1x64_avx512", "float32"),
    ],
)
def test_a_kernel_s_name_tells_what_it_multiplies(kernel, precision):
    assert multiplied_by(kernel) == precision
