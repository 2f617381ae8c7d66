// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"
#include <gtest/gtest.h>
