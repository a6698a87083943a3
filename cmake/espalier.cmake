# Flags and the three functions every module uses: espalier_module, espalier_bench, espalier_fuzzer.
include(GNUInstallDirs)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(nlohmann_json REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(spdlog REQUIRED)

add_library(espalier_flags INTERFACE)
target_include_directories(espalier_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(espalier_flags INTERFACE cxx_std_20)
# What fails says "espalier/base/file.cpp", wherever it was built.
add_compile_options(-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
# Without contraction a kernel gives the same bits whatever instruction set it was compiled for.
target_compile_options(espalier_flags INTERFACE $<BUILD_INTERFACE:-Wall;-Wextra;-Wshadow;-Wconversion;-ffp-contract=off>)
if(ESPALIER_WERROR)
  target_compile_options(espalier_flags INTERFACE $<BUILD_INTERFACE:-Werror>)
endif()
if(ESPALIER_SANITIZE)
  target_compile_options(espalier_flags INTERFACE -fsanitize=${ESPALIER_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(espalier_flags INTERFACE -fsanitize=${ESPALIER_SANITIZE})
  if(ESPALIER_SANITIZE MATCHES undefined)
    target_compile_options(espalier_flags INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

if(ESPALIER_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
if(ESPALIER_BENCH)
  find_package(benchmark REQUIRED)
endif()

# Version, commit and build (base/version.h): looked at in every build, compiled when they have changed, and linked only where they are said.
string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type)
set(version_flags "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_SYSTEM_PROCESSOR} ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type}}")
string(APPEND version_flags " torch=${ESPALIER_TORCH} sanitize=${ESPALIER_SANITIZE}")
add_custom_target(espalier_version_source
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${PROJECT_BINARY_DIR}/version.cpp -DSOURCE=${PROJECT_SOURCE_DIR} -DRELEASE=${PROJECT_VERSION}
          "-DFLAGS=${version_flags}" -P ${PROJECT_SOURCE_DIR}/cmake/version.cmake
  BYPRODUCTS ${PROJECT_BINARY_DIR}/version.cpp
  COMMENT "" VERBATIM)
add_library(espalier_version STATIC ${PROJECT_BINARY_DIR}/version.cpp)
target_link_libraries(espalier_version PUBLIC espalier_flags)
add_dependencies(espalier_version espalier_version_source)

# Heavy libraries are found once, as system libraries, and only for the modules that ask for them.
macro(espalier_find_onednn)
  if(NOT TARGET espalier_onednn)
    find_path(DNNL_INCLUDE dnnl.hpp REQUIRED)
    find_library(DNNL_LIBRARY dnnl REQUIRED)
    find_package(OpenMP REQUIRED)
    add_library(espalier_onednn INTERFACE)
    target_include_directories(espalier_onednn SYSTEM INTERFACE ${DNNL_INCLUDE})
    target_link_libraries(espalier_onednn INTERFACE ${DNNL_LIBRARY} OpenMP::OpenMP_CXX)
    espalier_install(espalier_onednn)
  endif()
endmacro()

macro(espalier_find_grpc)
  if(NOT TARGET espalier_grpc)
    find_program(PROTOC protoc REQUIRED)
    find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
    find_library(PROTOBUF_LIBRARY protobuf-lite REQUIRED)
    # gRPC's headers use symbols of libraries that it links itself.
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(GRPC REQUIRED IMPORTED_TARGET grpc++)
    add_library(espalier_grpc INTERFACE)
    target_link_libraries(espalier_grpc INTERFACE PkgConfig::GRPC ${PROTOBUF_LIBRARY})
    espalier_install(espalier_grpc)
  endif()
endmacro()

macro(espalier_find_torch)
  if(NOT TARGET espalier_libtorch)
    find_path(TORCH_API_INCLUDE torch/torch.h PATH_SUFFIXES torch/csrc/api/include REQUIRED)
    find_path(TORCH_INCLUDE ATen/ATen.h REQUIRED)
    find_library(TORCH_LIBRARY torch REQUIRED)
    find_library(TORCH_CPU_LIBRARY torch_cpu REQUIRED)
    find_library(C10_LIBRARY c10 REQUIRED)
    add_library(espalier_libtorch INTERFACE)
    target_include_directories(espalier_libtorch SYSTEM INTERFACE ${TORCH_API_INCLUDE} ${TORCH_INCLUDE})
    # As the library was built: without it its classes have further members in its headers.
    target_compile_definitions(espalier_libtorch INTERFACE NDEBUG)
    target_link_libraries(espalier_libtorch INTERFACE
      ${TORCH_LIBRARY} ${TORCH_CPU_LIBRARY} ${C10_LIBRARY} ${CMAKE_DL_LIBS})
    espalier_install(espalier_libtorch)
    # A libtorch with CUDA registers it when this library is loaded; nothing in it is called by name.
    find_library(TORCH_CUDA_LIBRARY torch_cuda)
    if(TORCH_CUDA_LIBRARY)
      target_link_libraries(espalier_libtorch INTERFACE -Wl,--push-state,--no-as-needed ${TORCH_CUDA_LIBRARY} -Wl,--pop-state)
    endif()
  endif()
endmacro()

# espalier_install(target …) puts libraries into what `cmake --install` makes (cmake/install.cmake).
function(espalier_install)
  set_property(GLOBAL APPEND PROPERTY espalier_installed ${ARGN})
endfunction()
espalier_install(espalier_flags espalier_version)

# The tests of a program under the label unit, with the environment of further arguments: all in one process ("name.all"), or, with
# ESPALIER_TEST_EACH, each in its own ("name.Suite.Test"), which starts libtorch as often.
function(espalier_unit_tests program name)
  if(ESPALIER_TEST_EACH)
    gtest_discover_tests(${program} TEST_PREFIX ${name}. TEST_LIST ${name}_list NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60
      PROPERTIES LABELS unit TIMEOUT 300 ENVIRONMENT "${ARGN}")
  else()
    add_test(NAME ${name}.all COMMAND ${program} --gtest_brief=1)
    set_tests_properties(${name}.all PROPERTIES LABELS unit TIMEOUT 900 ENVIRONMENT "${ARGN}")
  endif()
endfunction()

# espalier_module(name SOURCES a.cpp … TESTS a_test.cpp … DEPS module … TEST_DEPS module … LIBS library …)
# makes the static library espalier_<name> and, with ESPALIER_TESTS, the test program <name>_test (label unit).
function(espalier_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;TESTS;DEPS;TEST_DEPS;LIBS" ${ARGN})
  list(TRANSFORM ARG_DEPS PREPEND espalier_)
  list(TRANSFORM ARG_TEST_DEPS PREPEND espalier_)
  add_library(espalier_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(espalier_${name} PUBLIC espalier_flags ${ARG_DEPS} ${ARG_LIBS} Threads::Threads)
  espalier_install(espalier_${name})
  if(ESPALIER_TESTS AND ARG_TESTS)
    add_executable(${name}_test ${ARG_TESTS})
    if(ARG_TEST_DEPS MATCHES "espalier_(foreign|with_torch)")
      target_sources(${name}_test PRIVATE ${PROJECT_SOURCE_DIR}/espalier/models/test_process.cpp)
    endif()
    target_link_libraries(${name}_test PRIVATE espalier_${name} ${ARG_TEST_DEPS} GTest::gtest_main GTest::gmock)
    espalier_unit_tests(${name}_test ${name})
  endif()
endfunction()

# espalier_bench(program a_bench.cpp DEPS module …): a Google Benchmark program, or one with its own main (OWN_MAIN),
# which may use bench/harness.h.
function(espalier_bench name)
  if(NOT ESPALIER_BENCH)
    return()
  endif()
  cmake_parse_arguments(ARG "OWN_MAIN" "" "DEPS;LIBS" ${ARGN})
  list(TRANSFORM ARG_DEPS PREPEND espalier_)
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ${ARG_LIBS})
  if(ARG_OWN_MAIN)
    target_link_libraries(${name} PRIVATE espalier_harness)
  else()
    target_link_libraries(${name} PRIVATE benchmark::benchmark_main)
  endif()
endfunction()

# espalier_fuzzer(name source DEPS module …): a libFuzzer program <name>; its corpus is tests/fuzz/corpus/<name>.
function(espalier_fuzzer name source)
  if(NOT ESPALIER_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  list(TRANSFORM ARG_DEPS PREPEND espalier_)
  add_executable(${name} ${source})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
endfunction()
