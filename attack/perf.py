exec(open('q.py').read().split("for n,u in")[0])
import time
for n,u in (('sqlite',S),('pg',P)):
    for w,q in ((as_('aud','A'),'&actor=nobody'),(as_('aud','A'),'&to=2000-01-01T00:00:00Z'),(as_('aud','A'),'&key=5'),(as_('aud','A'),'&model=Neg'),(as_('dt','A'),'&model=Neg'),(as_('st','A'),''),(as_('aud','Z'),'&model=Acct'),(as_('aud','Z'),'&model=Cust&actor=q'),(as_('st','A'),'&model=Neg&actor=x')):
        t=time.time(); s,b=C(u,w,'GET','/audit?limit=1000'+q); print(n,q,s,len(b),round(time.time()-t,2), b[:0] if s==200 else b[-150:])
