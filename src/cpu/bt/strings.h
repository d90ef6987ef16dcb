/* SPDX-License-Identifier: Apache-2.0 */
/* MOVS and STOS of 64-bit code as what calls out ask first (bt.h). */
#ifndef RINGFENCE_CPU_BT_STRINGS_H
#define RINGFENCE_CPU_BT_STRINGS_H

#include "cpu/bt/bt.h"

bt_quick_fn strings_movs, strings_stos;

#endif
