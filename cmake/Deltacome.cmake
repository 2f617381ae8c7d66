# SPDX-License-Identifier: Apache-2.0
# One target per folder: deltacome_module() declares it, links only the layers named in DEPS, and
# makes one test program of its *_test.cc files.

add_library(deltacome_options INTERFACE)
target_compile_options(deltacome_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wno-sign-conversion -Wswitch -Wshadow>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow>)
if(DELTACOME_WERROR)
  target_compile_options(deltacome_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(DELTACOME_SANITIZE)
  target_compile_options(deltacome_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DELTACOME_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(deltacome_options INTERFACE -fsanitize=${DELTACOME_SANITIZE})
endif()
if(DELTACOME_BUILD_FUZZERS)  # coverage of the libraries guides the fuzzers
  target_compile_options(deltacome_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()

# deltacome_module(name SOURCES a.cc ... [DEPS target ...] [PRIVATE_DEPS target ...] [TESTS a_test.cc ... [TEST_DEPS target ...]])
function(deltacome_module name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS;PRIVATE_DEPS;TESTS;TEST_DEPS" ${ARGN})
  add_library(deltacome_${name} STATIC ${M_SOURCES})
  target_include_directories(deltacome_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  target_link_libraries(deltacome_${name} PUBLIC ${M_DEPS}
    PRIVATE $<BUILD_INTERFACE:deltacome_options> ${M_PRIVATE_DEPS})
  set_target_properties(deltacome_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON EXPORT_NAME ${name})
  set_property(GLOBAL APPEND PROPERTY DELTACOME_MODULES deltacome_${name})
  if(M_TESTS AND DELTACOME_BUILD_TESTS)
    deltacome_test(${name}_test LABEL unit SOURCES ${M_TESTS} DEPS deltacome_${name} ${M_PRIVATE_DEPS} ${M_TEST_DEPS})
  endif()
endfunction()

# What the sanitizer builds need: cmake --build --preset asan-ubsan --target unit_tests
add_custom_target(unit_tests)

# deltacome_test(name LABEL unit|golden|fault|e2e|slow|cuda SOURCES ... DEPS ...)
function(deltacome_test name)
  cmake_parse_arguments(T "" "LABEL" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE ${T_DEPS} deltacome_options GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})  # tests/support
  target_compile_definitions(${name} PRIVATE DELTACOME_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if(T_LABEL STREQUAL unit)
    add_dependencies(unit_tests ${name})
  endif()
  gtest_discover_tests(${name} PROPERTIES LABELS ${T_LABEL} DISCOVERY_TIMEOUT 60)
endfunction()
