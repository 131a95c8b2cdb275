# The CUDA back end, built by nvcc. The SIMT model builds the same sources
# (tests/simt/CMakeLists.txt). nvcc is called as tests/simt/static_check.sh calls it, with the same
# flags, and not through CMake's CUDA language, which in 3.25 does not know nvcc 13's C++20.
find_package(FucinaCuda REQUIRED)
if(NOT FucinaCuda_CUBLASLT OR NOT FucinaCuda_NVCC)
    message(FATAL_ERROR "FUCINA_CUDA=NVCC needs nvcc (${FucinaCuda_NVCC}) and cuBLASLt "
        "(${FucinaCuda_CUBLASLT_LIBRARY}), which `bash launch/setup.sh --cuda` installs.")
endif()
if(NOT FucinaCuda_CUDART)
    message(FATAL_ERROR "FUCINA_CUDA=NVCC needs libcudart_static.a, which is beside CUDA's headers "
        "(${FucinaCuda_INCLUDE}).")
endif()

# Kernels for Hopper's tensor cores are in the program where 90a is; other GPUs run without them.
set(FUCINA_CUDA_ARCH 90a CACHE STRING "GPUs that the kernels are for: 90a, 100, ...")
set(architectures)
set(capabilities)
foreach(architecture ${FUCINA_CUDA_ARCH})
    list(APPEND architectures -gencode=arch=compute_${architecture},code=sm_${architecture})
    string(REGEX REPLACE ".[a-z]?$" "" major ${architecture})
    string(APPEND capabilities " ${major}")
endforeach()
set_source_files_properties(cuda/runtime.cpp PROPERTIES
    COMPILE_DEFINITIONS FUCINA_CUDA_CAPABILITIES="${capabilities}")

set(flags ${CMAKE_CURRENT_SOURCE_DIR}/cuda/nvcc.flags)
file(GLOB host_sources CONFIGURE_DEPENDS cuda/*.cpp)
file(GLOB kernels CONFIGURE_DEPENDS cuda/*.cu)
target_sources(fucina_kernels PRIVATE ${host_sources})
foreach(kernel ${kernels})
    get_filename_component(name ${kernel} NAME)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(OUTPUT ${object} DEPENDS ${kernel} ${flags} DEPFILE ${object}.d
        COMMAND ${FucinaCuda_NVCC} --options-file ${flags} ${architectures} -O3 -DFUCINA_CUDA -Xcompiler=-fPIC
            -I${PROJECT_SOURCE_DIR} -c ${kernel} -o ${object} -MD -MF ${object}.d
        COMMENT "Compiling ${name} for ${FUCINA_CUDA_ARCH}" VERBATIM)
    target_sources(fucina_kernels PRIVATE ${object})
endforeach()
target_link_libraries(fucina_kernels PUBLIC FucinaCuda::cublasLt ${FucinaCuda_CUDART} dl rt pthread)
