// EXPECT_CONTAINS(text, part): the part stands somewhere in the text; both are printed when it does
// not. message_of(code, body): what a body that fails with this exit code says.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "kernels/error.h"

#define EXPECT_CONTAINS(text, part)                               \
    EXPECT_PRED2(                                                 \
        [](const std::string& whole, const std::string& wanted) { \
            return whole.find(wanted) != std::string::npos;       \
        },                                                        \
        text, part)

namespace fucina::test {

template <class Body>
std::string message_of(ExitCode code, const Body& body) {
    try {
        body();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        return error.what();
    }
    ADD_FAILURE() << "nothing failed";
    return "";
}

}  // namespace fucina::test
