// EXPECT_CONTAINS(text, part): the part stands somewhere in the text; both are printed when it does
// not.
#pragma once
#include <gtest/gtest.h>

#include <string>

#define EXPECT_CONTAINS(text, part)                               \
    EXPECT_PRED2(                                                 \
        [](const std::string& whole, const std::string& wanted) { \
            return whole.find(wanted) != std::string::npos;       \
        },                                                        \
        text, part)
