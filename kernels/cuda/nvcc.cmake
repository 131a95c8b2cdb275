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

set(flags ${CMAKE_CURRENT_SOURCE_DIR}/cuda/nvcc.flags)
file(GLOB host_sources CONFIGURE_DEPENDS cuda/*.cpp)
file(GLOB kernels CONFIGURE_DEPENDS cuda/*.cu)
target_sources(fucina_kernels PRIVATE ${host_sources})
foreach(kernel ${kernels})
    get_filename_component(name ${kernel} NAME)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(OUTPUT ${object} DEPENDS ${kernel} ${flags} DEPFILE ${object}.d
        COMMAND ${FucinaCuda_NVCC} --options-file ${flags} -O3 -DFUCINA_CUDA -Xcompiler=-fPIC
            -I${PROJECT_SOURCE_DIR} -c ${kernel} -o ${object} -MD -MF ${object}.d
        COMMENT "Compiling ${name} for sm_90a" VERBATIM)
    target_sources(fucina_kernels PRIVATE ${object})
endforeach()
target_link_libraries(fucina_kernels PUBLIC FucinaCuda::cublasLt ${FucinaCuda_CUDART} dl rt pthread)
