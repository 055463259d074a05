exec(open('u.py').read().split("def token")[0].replace("us.url","up.url"))
rnd=lambda k:''.join(random.choice('abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.~!') for _ in range(k))
import time
print(call(P,'POST','/comps',{'a':'first','b':'x'})[0]); time.sleep(1)
for L in range(2640,2720,4):
    q=L-7-2500
    a=list(rnd(1250-q//2)+'"'*(q//2)); b=list(rnd(1250-(q-q//2))+'"'*(q-q//2)); random.shuffle(a); random.shuffle(b); a=''.join(a);b=''.join(b)
    s,t=call(P,'POST','/comps',{'a':a,'b':b}); print(L-0,s,t[-60:] if s>201 else '')
    if s>201: break
time.sleep(2); print(call(P,'POST','/comps',{'a':'last','b':'x'})[0]); time.sleep(3)
print(sum(1 for _ in open('wedge.jsonl')), 'lines', '"last"' in open('wedge.jsonl').read())
