// Signals as bytes in a pipe, which can be waited for together with sockets.
#ifndef POCKETFORMER_DEVICE_SIGNALS_H_
#define POCKETFORMER_DEVICE_SIGNALS_H_

#include "device/net.h"

namespace pocketformer {

// The pipe, readable when a signal came: the end of a child, or one that ends the server.
Descriptor CatchSignals();

// Empties the pipe; whether one that ends the server was among them.
bool EndingSignalCame(const Descriptor& signals);

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_SIGNALS_H_
