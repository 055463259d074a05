exec(open('/tmp/atk/t6.py').read().split("def path(")[0])
A.stop()
A=Server(P,db,'/tmp/atk/atk.cstack','--idempotency-response-limit','60b')
